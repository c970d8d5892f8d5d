//! The temporary folder of `demo` and `bench`. It holds everything that the command writes and is removed when the
//! command ends. After a failed demo the logs are kept, for a person to read.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A folder that only this user can access, removed on drop.
pub(in crate::cli) struct Folder {
    path: PathBuf,
    keep_logs: bool,
}

impl Folder {
    pub(in crate::cli) fn make() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("topup-worker-{}", ulid::Ulid::generate()));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create the folder {}", path.display()))?;
        Ok(Self { path, keep_logs: false })
    }

    pub(in crate::cli) fn path(&self) -> &Path {
        &self.path
    }

    pub(in crate::cli) fn log(&self, name: &str) -> io::Result<(File, PathBuf)> {
        let path = self.path.join(name.replace(' ', "-")).with_extension("log");
        Ok((File::create(&path)?, path))
    }

    /// Lets the drop of the folder keep the logs and remove everything else.
    pub(in crate::cli) fn keep_logs(&mut self) {
        self.keep_logs = true;
    }

    fn remove_all_but_logs(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else if entry.path().extension().is_none_or(|extension| extension != "log") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let removed =
            if self.keep_logs { self.remove_all_but_logs() } else { fs::remove_dir_all(&self.path) };
        if let Err(error) = removed {
            tracing::warn!(%error, "the folder {} could not be removed; delete it by hand", self.path.display());
        }
    }
}
