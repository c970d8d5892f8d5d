//! The folder of a command: everything it writes lies in here, and the folder goes with the command.
//!
//! Only the logs stay, and only where something went wrong and a person must look at them.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A folder for this user alone, removed when dropped.
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
            .with_context(|| format!("the folder {} cannot be made", path.display()))?;
        Ok(Self { path, keep_logs: false })
    }

    pub(in crate::cli) fn path(&self) -> &Path {
        &self.path
    }

    /// A new file for the log of a process, and where it is.
    pub(in crate::cli) fn log(&self, name: &str) -> io::Result<(File, PathBuf)> {
        let path = self.path.join(name.replace(' ', "-")).with_extension("log");
        Ok((File::create(&path)?, path))
    }

    /// Leaves the logs, and nothing else, when the folder is dropped.
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
            tracing::warn!(%error, "the folder {} could not be removed", self.path.display());
        }
    }
}
