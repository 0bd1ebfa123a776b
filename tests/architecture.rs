//! Holds `docs/architecture.md`: the module table there is the truth, the `crate::` paths in the sources must agree with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Module → modules it may name, read from the table in the document.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("docs/architecture.md")).expect("docs/architecture.md");
    let table = text.split("## Module map").nth(1).and_then(|rest| rest.split("Beside the crate").next()).expect("a section Module map");
    let mut rows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let module = cells[1].trim_matches('`').to_string();
        rows.insert(module, cells[3].split(',').map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).collect());
    }
    let modules: BTreeSet<String> = rows.keys().cloned().collect();
    for (module, may) in &mut rows {
        if may.contains("all of the above") {
            *may = modules.clone();
            may.remove("cli");
            if module == "cli" {
                may.insert("server".into());
            }
        }
        may.insert(module.clone());
    }
    rows
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Modules of the crate that a source names in `crate::name` paths, groups included.
fn named(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let line_start = text[..at].rfind('\n').map_or(0, |end| end + 1);
        let line = &text[line_start..at];
        let is_path_of_another_crate =
            text[..at].ends_with("::") || text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        if line.trim_start().starts_with("//") || is_path_of_another_crate {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let end = group.find("};").unwrap_or(group.len());
            names.extend(group[..end].split(',').filter_map(|item| item.trim().split("::").next()).map(str::to_string));
        } else {
            names.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    names
}

#[test]
fn modules_import_what_the_map_allows() {
    let allowed = allowed();
    let src = root().join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut seen = BTreeSet::new();
    let mut faults = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).expect("under src");
        let module = inside.components().next().expect("a name").as_os_str().to_string_lossy().trim_end_matches(".rs").to_string();
        if module == "lib" || module == "main" {
            continue;
        }
        let Some(may) = allowed.get(&module) else {
            faults.push(format!("{}: module {module} is not in the map", inside.display()));
            continue;
        };
        seen.insert(module.clone());
        let text = std::fs::read_to_string(&file).expect("a source");
        for name in named(&text) {
            if allowed.contains_key(&name) && !may.contains(&name) {
                faults.push(format!("{}: names {name}, which the map does not allow {module}", inside.display()));
            }
        }
        if text.contains("glommio::") && !(inside.starts_with("server") || inside.starts_with("wire")) {
            faults.push(format!("{}: names glommio; only server and wire/uring may", inside.display()));
        }
        if text.contains("cudarc::") && !inside.starts_with("engine/cuda/driver") {
            faults.push(format!("{}: names cudarc; only engine/cuda/driver may", inside.display()));
        }
    }
    for module in allowed.keys() {
        if !seen.contains(module) {
            faults.push(format!("the map names {module}, which has no source"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn paths_are_found() {
    let text = "use crate::batch::{Slot};\n// use crate::server::x;\nuse crate::{model::Model, units};\nlet x = crate::engine::Step::Idle; $crate::metrics::x; othercrate::wire::y";
    let expected: BTreeSet<String> = ["batch", "model", "units", "engine"].map(String::from).into();
    assert_eq!(named(text), expected);
}
