//! Finds which modules use each other, level by level, and where the uses form a cycle.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::tokens::{Named, paths, tokens, without_tests};

/// The path of a module: the crate and all modules down to it.
type Module<'s> = Vec<&'s str>;

/// One file of a crate: its path below `crates/`, such as `nanochat/src/gpt/mod.rs`, and its text.
pub struct Source {
    pub path: String,
    pub text: String,
}

/// The names that a module uses from a sibling, by file.
type Taken<'s> = BTreeMap<&'s str, BTreeSet<String>>;

/// Returns all uses that form a cycle among siblings, each with its level and as `a -> b (file: names)`. A module may
/// use its children, and they may use what it defines itself; a name that it re-exports counts as the child's that
/// defines it.
pub fn circles(sources: &[Source]) -> Vec<(String, String)> {
    let uses = uses(sources);
    let mut found = Vec::new();
    for (level, uses) in &uses {
        for ((from, to), taken) in uses.iter().filter(|((from, to), _)| leads_to(uses, to, from)) {
            let taken = taken.iter().map(|(file, names)| {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                format!("{file}: {}", names.join(", "))
            });
            let taken: Vec<String> = taken.collect();
            found.push((level.join("/"), format!("{from} -> {to} ({})", taken.join("; "))));
        }
    }
    found
}

type Uses<'s> = BTreeMap<(&'s str, &'s str), Taken<'s>>;

fn leads_to(uses: &Uses, from: &str, to: &str) -> bool {
    let (mut seen, mut next) = (HashSet::from([from]), vec![from]);
    while let Some(at) = next.pop() {
        if at == to {
            return true;
        }
        let onward = uses.keys().filter(|(a, _)| *a == at).map(|(_, b)| *b);
        next.extend(onward.filter(|module| seen.insert(module)));
    }
    false
}

/// Returns, for every level, which of its modules use which.
fn uses(sources: &[Source]) -> BTreeMap<Module<'_>, Uses<'_>> {
    let mut files: Vec<(Module, &str, Vec<Named>)> = Vec::new();
    let mut of_tests: HashSet<Module> = HashSet::new();
    for Source { path, text } in sources {
        let module = module_of(path);
        let (tokens, tests) = without_tests(tokens(text));
        of_tests.extend(tests.into_iter().map(|name| [&*module, &[name]].concat()));
        files.push((module, path, paths(&tokens)));
    }
    let is_of_tests = |module: &[&str]| {
        (0..=module.len()).any(|n| {
            of_tests.contains(&module[..n]) || matches!(module[..n].last(), Some(&("tests" | "testing")))
        })
    };
    files.retain(|(module, ..)| !is_of_tests(module));
    let modules: HashSet<&[&str]> = files.iter().map(|(module, ..)| &**module).collect();
    // The re-exports: the module and the name, and the child that defines it.
    let mut passed_on: HashMap<(&[&str], &str), &str> = HashMap::new();
    for (module, _, named) in &files {
        for Named { path, alias } in named {
            let path = if path[0] == "self" { &path[1..] } else { path };
            let child =
                path.first().filter(|child| modules.contains(&*[module.as_slice(), &[**child]].concat()));
            child.map(|child| passed_on.insert((module, alias), child));
        }
    }
    let mut uses: BTreeMap<Module, Uses> = BTreeMap::new();
    for (module, file, named) in &files {
        for Named { path, .. } in named {
            let Some(mut target) = absolute(module, path) else { continue };
            let mut len = (1..=target.len()).rev().find(|&n| modules.contains(&target[..n])).unwrap_or(0);
            if module.starts_with(&target[..len])
                && let Some(name) = target.get(len)
                && let Some(child) = passed_on.get(&(&target[..len], *name))
            {
                target.insert(len, child);
                len += 1;
            }
            let shared = module.iter().zip(&target[..len]).take_while(|(a, b)| a == b).count();
            if shared < module.len() && shared < len {
                let (level, edge) = (module[..shared].to_vec(), (module[shared], target[shared]));
                let name = target[shared + 1..].join("::");
                uses.entry(level).or_default().entry(edge).or_default().entry(file).or_default().insert(name);
            }
        }
    }
    uses
}

/// Returns the module of a file: `nanochat/src/gpt/mod.rs` is nanochat, gpt.
fn module_of(path: &str) -> Module<'_> {
    let (name, within) = path.split_once("/src/").expect("a file of a crate's src");
    let parts =
        within.trim_end_matches(".rs").split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main"));
    std::iter::once(name).chain(parts).collect()
}

/// Returns a path from the crate's root, or None if it begins with another name.
fn absolute<'s>(module: &[&'s str], path: &[&'s str]) -> Option<Module<'s>> {
    let mut at = match path[0] {
        "crate" => module[..1].to_vec(),
        "self" | "super" => module.to_vec(),
        _ => return None,
    };
    for name in path {
        match *name {
            "crate" | "self" => {}
            "super" => drop(at.pop()),
            name => at.push(name),
        }
    }
    Some(at)
}
