//! Every link of the documentation leads to an existing page and heading, and every page has a French twin.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Paths of all pages, relative to the root.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for folder in ["", "docs", "jobs", "src/notify/templates", "src/orders/migrations"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    pages
}

/// The lines of a page outside its code blocks.
fn prose(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        is_code ^= line.starts_with("```");
        !is_code
    });
    lines.map(str::to_owned).collect()
}

/// The anchor of each heading of a page: the part of a link after `#`.
fn anchors(page: &Path) -> BTreeSet<String> {
    let lines = prose(page);
    let headings = lines.iter().filter(|line| line.starts_with('#'));
    let anchor = |heading: &String| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|at| at.is_alphanumeric() || matches!(at, ' ' | '-' | '_'));
        kept.map(|at| if at == ' ' { '-' } else { at }).collect()
    };
    headings.map(anchor).collect()
}

fn links(page: &Path) -> Vec<String> {
    let lines = prose(page);
    let targets = lines.iter().flat_map(|line| line.split("](").skip(1));
    targets.filter_map(|rest| rest.split(')').next().map(str::to_owned)).collect()
}

#[test]
fn every_link_of_the_docs_has_a_target() {
    let mut checked = 0;
    for page in pages() {
        for link in links(&page) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) =
                link.split_once('#').map_or((&*link, None), |(path, anchor)| (path, Some(anchor)));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            assert!(root().join(&target).exists(), "{}: there is no {link}", page.display());
            if let Some(anchor) = anchor {
                assert!(anchors(&target).contains(anchor), "{}: there is no heading {link}", page.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} links were found");
}

#[test]
fn every_page_of_the_docs_has_a_french_twin_with_as_many_headings() {
    for page in pages() {
        let name = page.file_name().unwrap().to_str().unwrap();
        let has_twin = page.starts_with("docs") || page == Path::new("README.md");
        if !has_twin || name.ends_with(".fr.md") {
            continue;
        }
        let twin = page.with_file_name(name.replace(".md", ".fr.md"));
        assert!(root().join(&twin).exists(), "{} has no French twin", page.display());
        assert_eq!(anchors(&page).len(), anchors(&twin).len(), "headings of {}", page.display());
    }
}

#[test]
fn the_readmes_are_short() {
    for page in ["README.md", "README.fr.md"] {
        let lines = std::fs::read_to_string(root().join(page)).unwrap().lines().count();
        assert!(lines <= 200, "{page} has {lines} lines; what it explains in detail belongs in docs/");
    }
}

/// `/readyz` reports each fault of the database in the words of `StoreError::fault`.
#[test]
fn every_fault_of_the_database_is_documented() {
    let source = std::fs::read_to_string(root().join("src/orders/error.rs")).unwrap();
    let (_, body) = source.split_once("fn fault(&self)").expect("the function exists");
    let (body, _) = body.split_once("\n    }\n").expect("the function ends");
    let faults: Vec<_> = body.split('"').skip(1).step_by(2).filter(|text| text.contains(' ')).collect();
    assert!(faults.len() > 15, "{faults:?}");
    for page in ["docs/operations.md", "docs/operations.fr.md"] {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        for fault in &faults {
            assert!(text.contains(&format!("`{fault}`")), "{page} lacks {fault}");
        }
    }
}
