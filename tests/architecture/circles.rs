//! No files of `src` import each other, directly or through others.
//!
//! The imports are read from the text: every path of a `use` and every other path in the code, macros included. A name
//! that a module re-exports counts for the file that defines the name. Unit tests are left out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Modules by their path, as in `store::redis`; the path of `lib.rs` is empty.
struct Modules(BTreeMap<String, Module>);

#[derive(Default)]
struct Module {
    /// Each name that a `use` brings in, with the path that the name stands for.
    imports: HashMap<String, String>,
    /// All other paths in the code.
    paths: Vec<String>,
}

/// Joins two paths, either of which may be empty.
fn join(path: &str, rest: &str) -> String {
    if path.is_empty() || rest.is_empty() { format!("{path}{rest}") } else { format!("{path}::{rest}") }
}

/// The single paths of a `use`: `a::{self, b::{c, d as e}}` has `a`, `a::b::c` and `a::b::d as e`.
fn single_paths(tree: &str) -> Vec<String> {
    let Some((prefix, rest)) = tree.split_once('{') else { return vec![tree.trim().to_owned()] };
    let (body, _) = rest.rsplit_once('}').unwrap();
    let mut depth = 0;
    let branches = body.split(|character| {
        depth += i32::from(character == '{') - i32::from(character == '}');
        character == ',' && depth == 0
    });
    let paths = branches.filter(|branch| !branch.trim().is_empty()).flat_map(single_paths);
    paths.map(|path| format!("{}{path}", prefix.trim()).replace("::self", "")).collect()
}

impl Module {
    fn read(text: &str) -> Self {
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
        let lines: Vec<_> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let mut module = Self::default();
        for statement in lines.join("\n").split(';') {
            let (other, tree) = match statement.rsplit_once("use ") {
                Some((before, tree)) if is_visibility(before.lines().last().unwrap_or_default()) => (before, tree),
                _ => (statement, ""),
            };
            for path in single_paths(tree) {
                let (path, name) = path.split_once(" as ").unwrap_or((&path, path.rsplit("::").next().unwrap()));
                module.imports.insert(name.to_owned(), path.to_owned());
            }
            let paths = other.split(|character: char| !(character.is_alphanumeric() || "_:".contains(character)));
            module.paths.extend(paths.filter(|path| path.contains("::")).map(str::to_owned));
        }
        module
    }
}

/// Whether a line up to its `use` makes that a declaration.
fn is_visibility(text: &str) -> bool {
    text.trim().is_empty() || text.trim_start().starts_with("pub")
}

impl Modules {
    fn read() -> Self {
        let modules = super::sources().into_iter().map(|(file, text)| {
            let path = file.with_extension("").to_str().unwrap().replace('/', "::");
            let path = path.strip_suffix("::mod").unwrap_or(&path);
            (if path == "lib" { String::new() } else { path.to_owned() }, Module::read(&text))
        });
        Self(modules.collect())
    }

    /// The module of the item that `path` names in `module`; `None` for modules themselves and for other crates.
    fn resolve(&self, module: &str, path: &str) -> Option<String> {
        let (first, rest) = path.split_once("::").unwrap_or((path, ""));
        let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
        match first {
            "crate" => self.descend("", rest),
            "self" => self.descend(module, rest),
            "super" if rest.starts_with("super") => self.resolve(parent, rest),
            "super" => self.descend(parent, rest),
            _ if self.0.contains_key(&join(module, first)) => self.descend(module, path),
            _ => {
                let import = self.0[module].imports.get(first)?;
                let is_crate = import.split("::").next() == Some(first);
                if is_crate { None } else { self.resolve(module, &join(import, rest)) }
            }
        }
    }

    /// The same for a path below `module`.
    fn descend(&self, module: &str, path: &str) -> Option<String> {
        let (first, rest) = path.split_once("::").unwrap_or((path, ""));
        let child = join(module, first);
        if first.is_empty() {
            None
        } else if self.0.contains_key(&child) {
            self.descend(&child, rest)
        } else {
            let import = self.0[module].imports.get(first);
            let re_exported = import.and_then(|import| self.resolve(module, &join(import, rest)));
            re_exported.or_else(|| Some(module.to_owned()))
        }
    }

    /// The modules that each module imports from.
    fn imported(&self) -> BTreeMap<String, BTreeSet<String>> {
        let imported = self.0.iter().map(|(name, module)| {
            let paths = module.imports.values().chain(&module.paths);
            let targets = paths.filter_map(|path| self.resolve(name, path));
            (name.clone(), targets.filter(|target| target != name).collect())
        });
        imported.collect()
    }
}

/// A circle of modules, with the first one again at the end.
fn circle(mut imported: BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    // Without modules that import nothing, again and again, only circles and the modules that lead to them remain.
    while let Some(name) = imported.iter().find(|(_, others)| others.is_empty()).map(|(name, _)| name.clone()) {
        imported.remove(&name);
        for others in imported.values_mut() {
            others.remove(&name);
        }
    }
    let mut path = vec![imported.keys().next()?.clone()];
    loop {
        let next = imported[path.last().unwrap()].first().unwrap().clone();
        if let Some(start) = path.iter().position(|name| *name == next) {
            path.push(next);
            return Some(path.split_off(start));
        }
        path.push(next);
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut imported = Modules::read().imported();
    assert!(imported.values().map(BTreeSet::len).sum::<usize>() > 100, "imports were not found: {imported:#?}");
    let mut circles = Vec::new();
    while let Some(circle) = circle(imported.clone()) {
        imported.get_mut(&circle[0]).unwrap().remove(&circle[1]);
        circles.push(circle.join(" → "));
    }
    assert!(circles.is_empty(), "{circles:#?}");
}
