//! Reads the workspace: its files and its packages.

use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::packages::{Kind, Package};
use crate::source::{Source, mark_test_modules};

/// Directories that are not part of the tree: made by tools.
const SKIPPED: &[&str] = &["target", ".git", ".barque"];

pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("this crate lies two below the root")
        .to_owned()
}

/// All text files: path from the root, and text. Files that are not UTF-8 are left out.
pub fn text_files() -> Vec<(String, String)> {
    let root = root();
    let mut out = Vec::new();
    let mut dirs = vec![root.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("the tree can be read") {
            let path = entry.expect("the tree can be read").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                if !SKIPPED.contains(&name.as_str()) {
                    dirs.push(path);
                }
            } else if let Ok(text) = fs::read_to_string(&path) {
                let relative = path.strip_prefix(&root).expect("found below the root");
                out.push((relative.to_string_lossy().into_owned(), text));
            }
        }
    }
    out.sort();
    out
}

pub fn sources(files: &[(String, String)]) -> Vec<Source> {
    let rust = files.iter().filter(|(path, _)| path.ends_with(".rs"));
    let mut sources: Vec<Source> = rust.map(|(path, text)| Source::new(path, text)).collect();
    mark_test_modules(&mut sources);
    sources
}

pub fn packages() -> Vec<Package> {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata works");
    let root = &metadata.workspace_root;
    let packages = metadata.workspace_packages().into_iter();
    packages
        .map(|package| {
            let dir = package
                .manifest_path
                .parent()
                .expect("a manifest lies in a directory");
            let dir = dir.strip_prefix(root).expect("members lie below the root");
            let dependencies = package.dependencies.iter().map(|dependency| {
                let kind = match dependency.kind {
                    DependencyKind::Development => Kind::Development,
                    DependencyKind::Build => Kind::Build,
                    _ => Kind::Normal,
                };
                (dependency.name.clone(), kind)
            });
            Package {
                name: package.name.to_string(),
                dir: dir.to_string(),
                dependencies: dependencies.collect(),
            }
        })
        .collect()
}
