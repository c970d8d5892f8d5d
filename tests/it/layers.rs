//! Modules use only modules of lower layers. ARCHITECTURE.md lists the layers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The layer of each module, numbered from the top.
fn layers() -> HashMap<String, usize> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = text.split("\n## Layers\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let modules = |row: &str| {
        let cell = row.split('|').nth(1).unwrap().replace(['`', ' '], "");
        cell.split(',').map(str::to_owned).collect::<Vec<_>>()
    };
    rows.enumerate().flat_map(|(n, row)| modules(row).into_iter().map(move |module| (module, n))).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let is_test = stem.ends_with("tests") || path.components().any(|part| part.as_os_str() == "tests");
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
            files.push(path);
        }
    }
    files
}

/// The modules that this code names after `crate::`, except in its tests.
fn named(code: &str) -> impl Iterator<Item = &str> {
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
    code.split("crate::").skip(1).filter_map(|rest| {
        let end = rest.find(|at: char| !at.is_ascii_lowercase() && at != '_')?;
        (end > 0 && rest[end..].starts_with("::")).then(|| &rest[..end])
    })
}

#[test]
fn no_module_uses_a_module_of_its_own_layer_or_above() {
    let layers = layers();
    let mut upward = Vec::new();
    for file in rust_files(&root().join("src")) {
        let path = file.strip_prefix(root().join("src")).unwrap();
        let module = path.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if module == "main" || module == "lib" {
            continue;
        }
        let own = layers.get(module).unwrap_or_else(|| panic!("{module} is in no layer of ARCHITECTURE.md"));
        for other in named(&std::fs::read_to_string(&file).unwrap()).filter(|other| *other != module) {
            match layers.get(other) {
                Some(layer) if layer > own => {}
                Some(_) => upward.push(format!("{}: {other}", path.display())),
                None => panic!("{}: {other} is in no layer of ARCHITECTURE.md", path.display()),
            }
        }
    }
    assert!(upward.is_empty(), "these use a module that is not below theirs: {upward:#?}");
    assert!(layers.len() > 20, "{layers:?}");
}
