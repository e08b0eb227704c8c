//! The rules that no other tool knows: who may depend on whom, what pure
//! modules may not name, how long files and functions are, and words that have
//! no place in the repository.

mod documents;
mod retired;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use proc_macro2::{Span, TokenStream};
use syn::{
    ImplItemFn, ItemFn, TraitItemFn, UseTree,
    spanned::Spanned,
    visit::{self, Visit},
};

use crate::run::{self, root};

/// Lines that a file and a function may have.
const FILE_MAX: usize = 600;
const FUNCTION_MAX: usize = 80;

/// Which modules of the agent may use which (`crate::<module>`). What is not
/// listed may use nothing of the crate.
const EDGES: [(&str, &[&str]); 30] = [
    ("again", &[]),
    ("files", &["problem"]),
    ("problem", &["words"]),
    ("words", &[]),
    ("shared", &[]),
    ("tables", &["shared"]),
    ("model", &["problem", "shared", "words"]),
    ("desired", &["model", "shared", "tables"]),
    ("reconcile", &["problem", "shared", "tables"]),
    ("store", &["again", "model", "problem"]),
    ("ipam", &["model", "store"]),
    ("kernel", &["again", "files", "model", "problem", "reconcile", "tables", "desired", "words"]),
    ("journal", &["again", "files", "model", "problem", "tables", "words"]),
    ("network", &["model", "problem", "store", "words"]),
    ("metrics", &["control", "kernel", "version"]),
    ("next_hops", &["control", "desired", "kernel"]),
    ("node", &["control", "model", "problem", "store"]),
    ("membership", &["again", "control", "ipam", "journal", "model", "problem", "store", "endpoints"]),
    (
        "control",
        &["again", "desired", "kernel", "model", "problem", "reconcile", "shared", "store", "tables"],
    ),
    (
        "endpoints",
        &[
            "control", "desired", "ipam", "journal", "kernel", "model", "network", "problem", "tables",
            "words",
        ],
    ),
    ("report", &["problem"]),
    ("drops", &["control", "kernel", "model"]),
    ("sockets", &[]),
    (
        "docker",
        &[
            "control",
            "journal",
            "metrics",
            "model",
            "network",
            "problem",
            "report",
            "store",
            "words",
            "endpoints",
        ],
    ),
    (
        "api",
        &[
            "control",
            "drops",
            "ipam",
            "kernel",
            "membership",
            "metrics",
            "model",
            "network",
            "node",
            "problem",
            "report",
            "store",
            "tables",
            "version",
            "words",
            "endpoints",
        ],
    ),
    ("config", &["api", "kernel", "model", "store"]),
    (
        "agent",
        &[
            "again",
            "api",
            "config",
            "control",
            "desired",
            "docker",
            "drops",
            "files",
            "ipam",
            "journal",
            "kernel",
            "membership",
            "model",
            "network",
            "next_hops",
            "problem",
            "report",
            "shared",
            "sockets",
            "store",
            "tables",
            "version",
            "endpoints",
        ],
    ),
    ("bin", &["cleanup", "cli", "commands", "complete", "endpoint", "log", "output", "store"]),
    ("lib", &[]),
    ("build", &[]),
];

/// Crates that only these modules of the agent may name.
const OWNED: [(&str, &[&str]); 15] = [
    ("aya", &["kernel"]),
    ("aya_obj", &["kernel"]),
    ("ethtool", &["kernel"]),
    ("netlink_sys", &["kernel"]),
    ("redb", &["journal", "store"]),
    ("prometheus_client", &["control", "metrics"]),
    ("netlink_packet_route", &["kernel"]),
    ("rtnetlink", &["kernel"]),
    ("etcd_client", &["store"]),
    ("rustls", &["store"]),
    ("axum", &["api", "docker"]),
    ("bollard", &["docker"]),
    ("listenfd", &["sockets"]),
    ("sd_notify", &["agent"]),
    ("clap", &["config", "kernel", "bin"]),
];

/// Modules that are pure: no runtime, no files, no sockets, no clock.
const PURE: [&str; 7] = ["shared", "tables", "model", "problem", "words", "desired", "reconcile"];
const IMPURE: [&str; 9] = [
    "tokio",
    "aya",
    "rtnetlink",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "Instant::now",
    "SystemTime::now",
    "std::process",
];

/// What is the same for every container runtime, so that another one finds its place.
const FOR_ANY_RUNTIME: [&str; 3] = ["journal", "model", "endpoints"];
/// The name of a runtime that those do not know.
const RUNTIME: &str = "docker";
/// Where it is allowed: a name in the store, and the format of older agents.
const RUNTIME_ALLOWED: [(&str, &str); 2] =
    [("agent/src/model/network.rs", "rename = \"docker\""), ("agent/src/journal/old.rs", "")];

/// Runs every check and tells of all that fail.
pub fn run() -> Result<()> {
    let (mut faults, mut tests) = (Vec::new(), BTreeSet::new());
    for path in files(&["*.rs"])? {
        check_file(&path, &mut faults, &mut tests)?;
    }
    check_words(&mut faults)?;
    documents::check(&mut faults)?;
    for (name, head) in PROVEN {
        faults.extend(unproven(name, head, &fs::read_to_string(root().join(name))?, &tests));
    }
    if !faults.is_empty() {
        bail!("\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// The files of the repository that match, as git knows them.
fn files(patterns: &[&str]) -> Result<Vec<PathBuf>> {
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "--"])
        .args(patterns)
        .current_dir(root());
    let listed = run::output(&mut git)?;
    Ok(listed.lines().map(PathBuf::from).filter(|path| root().join(path).is_file()).collect())
}

fn check_file(path: &Path, faults: &mut Vec<String>, tests: &mut BTreeSet<String>) -> Result<()> {
    let text = fs::read_to_string(root().join(path)).with_context(|| path.display().to_string())?;
    let name = path.display();
    let lines = text.lines().count();
    if lines > FILE_MAX {
        faults.push(format!("{name}: {lines} lines, at most {FILE_MAX}"));
    }
    let is_test = path.ends_with("tests.rs");
    if !text.starts_with("//!") && !is_test {
        faults.push(format!("{name}: does not open with what it is for (//!)"));
    }
    let module = module_of(path);
    if let Some(module) = module
        && PURE.contains(&module)
        && !is_test
    {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in IMPURE.iter().filter(|word| code.contains(*word)) {
            faults.push(format!("{name}: {module} is pure and may not name {word}"));
        }
    }
    faults.extend(named_runtimes(path, &text));
    let tokens: TokenStream = text.parse().map_err(|error| anyhow!("{name}: {error}"))?;
    faults.extend(retired::check_source(path, &text, tokens));
    let file = syn::parse_file(&text).with_context(|| name.to_string())?;
    let mut visitor = Visitor { path, module, is_test, faults, tests };
    visitor.visit_file(&file);
    Ok(())
}

/// Lines that name a runtime where any should do; tests may.
fn named_runtimes(path: &Path, text: &str) -> Vec<String> {
    if !module_of(path).is_some_and(|module| FOR_ANY_RUNTIME.contains(&module)) || path.ends_with("tests.rs")
    {
        return Vec::new();
    }
    let allowed = |line: &str| {
        RUNTIME_ALLOWED.iter().any(|(file, words)| path == Path::new(file) && line.contains(words))
    };
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().lines().enumerate();
    let named = code.filter(|(_, line)| line.to_lowercase().contains(RUNTIME) && !allowed(line));
    named
        .map(|(n, _)| format!("{}:{}: is for any runtime and names {RUNTIME}", path.display(), n + 1))
        .collect()
}

/// The module of the agent that a file belongs to.
fn module_of(path: &Path) -> Option<&str> {
    let inside = path.strip_prefix("agent/src").ok()?;
    let first = inside.components().next()?.as_os_str().to_str()?;
    Some(first.strip_suffix(".rs").unwrap_or(first))
}

struct Visitor<'a> {
    path: &'a Path,
    module: Option<&'a str>,
    is_test: bool,
    faults: &'a mut Vec<String>,
    /// Names of tests that were met.
    tests: &'a mut BTreeSet<String>,
}

impl Visitor<'_> {
    fn fault(&mut self, at: Span, what: &str) {
        self.faults.push(format!("{}:{}: {what}", self.path.display(), at.start().line));
    }

    fn check_length(&mut self, name: &syn::Ident, span: Span) {
        let lines = span.end().line - span.start().line + 1;
        if lines > FUNCTION_MAX {
            self.fault(span, &format!("{name} has {lines} lines, at most {FUNCTION_MAX}"));
        }
    }

    /// Checks a path that begins with these two names.
    fn check_edge(&mut self, at: Span, first: &str, second: Option<&str>) {
        let Some(module) = self.module.filter(|_| !self.is_test) else { return };
        if first == "crate"
            && let Some(second) = second
            && second != module
            && second.starts_with(char::is_lowercase)
        {
            let allowed = EDGES.iter().find(|(name, _)| *name == module).map(|(_, allowed)| *allowed);
            if !allowed.is_some_and(|allowed| allowed.contains(&second)) {
                self.fault(at, &format!("{module} may not use {second}"));
            }
        }
        let owners = OWNED.iter().find(|(name, _)| *name == first).map(|(_, owners)| *owners);
        if owners.is_some_and(|owners| !owners.contains(&module)) {
            self.fault(at, &format!("{module} may not name {first}"));
        }
    }

    fn check_use(&mut self, tree: &UseTree, first: Option<&str>) {
        match (tree, first) {
            (UseTree::Path(path), None) => {
                let name = path.ident.to_string();
                self.check_use(&path.tree, Some(&name));
            }
            (UseTree::Path(path), Some(first)) => {
                self.check_edge(path.span(), first, Some(&path.ident.to_string()));
            }
            (UseTree::Group(group), first) => {
                for tree in &group.items {
                    self.check_use(tree, first);
                }
            }
            (UseTree::Name(name), Some(first)) => {
                self.check_edge(name.span(), first, Some(&name.ident.to_string()));
            }
            (other, first) => self.check_edge(other.span(), first.unwrap_or_default(), None),
        }
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.check_length(&item.sig.ident, item.span());
        if item.attrs.iter().any(|attr| attr.path().segments.last().is_some_and(|name| name.ident == "test"))
        {
            self.tests.insert(item.sig.ident.to_string());
        }
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.check_length(&item.sig.ident, item.span());
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        self.check_length(&item.sig.ident, item.span());
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.check_use(&item.tree, None);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut names = path.segments.iter().map(|segment| segment.ident.to_string());
        if let Some(first) = names.next().filter(|_| path.segments.len() > 1) {
            self.check_edge(path.span(), &first, names.next().as_deref());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        // What stands in there with a name are tests of properties.
        if call.path.segments.last().is_some_and(|name| name.ident == "proptest") {
            self.tests.extend(functions(call.tokens.clone()));
        }
        visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("ignore") && matches!(attribute.meta, syn::Meta::Path(_)) {
            self.fault(attribute.span(), "an ignored test says why");
        }
    }
}

/// The names behind `fn`, where a macro's tokens have them.
fn functions(tokens: TokenStream) -> Vec<String> {
    let words: Vec<String> = tokens.into_iter().map(|token| token.to_string()).collect();
    let pairs = words.windows(2).filter(|pair| pair[0] == "fn");
    pairs.map(|pair| pair[1].clone()).collect()
}

/// Documents with tables of three columns of which the last one names tests, and the head of
/// another column by which these tables are known.
const PROVEN: [(&str, &str); 2] = [("SECURITY.md", "attack"), ("ARCHITECTURE.md", "invariant")];

/// What is wrong with the tables of attacks or invariants: each row names in its last column, in
/// backticks, tests that exist.
fn unproven(name: &str, head: &str, text: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, first, second, proof, _] = cells[..] else {
            inside = false;
            continue;
        };
        if !inside || first.starts_with("---") {
            inside |= [first, second].contains(&head);
            continue;
        }
        let names: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            faults.push(format!("{name}:{}: names no test", number + 1));
        }
        for test in names.into_iter().filter(|test| !tests.contains(*test)) {
            faults.push(format!("{name}:{}: there is no test {test}", number + 1));
        }
    }
    faults
}

/// Words that would tie the repository to a machine, cut in two so that this
/// file has none of them.
const WORDS: [[&str; 2]; 4] =
    [["/roo", "t/"], ["/hom", "e/"], ["index.crates", ".io"], ["deb.debian", ".org"]];

fn check_words(faults: &mut Vec<String>) -> Result<()> {
    for path in files(&[])? {
        if path.ends_with("Cargo.lock") {
            continue;
        }
        // What is not text has no place here either.
        let Ok(text) = fs::read_to_string(root().join(&path)) else {
            faults.push(format!("{}: is not text", path.display()));
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            for word in WORDS.iter().map(|halves| halves.concat()).filter(|word| line.contains(word)) {
                faults.push(format!("{}:{}: names {word}", path.display(), number + 1));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> Vec<String> {
        look(path, text).0
    }

    fn look(path: &str, text: &str) -> (Vec<String>, BTreeSet<String>) {
        let (mut faults, mut tests) = (Vec::new(), BTreeSet::new());
        let path = Path::new(path);
        let file = syn::parse_file(text).expect("parses");
        let mut visitor =
            Visitor { path, module: module_of(path), is_test: false, faults: &mut faults, tests: &mut tests };
        visitor.visit_file(&file);
        (faults, tests)
    }

    #[test]
    fn forbidden_edges_are_found_however_they_are_written() {
        for text in [
            "use crate::kernel::link;",
            "use crate::{kernel::link, model};",
            "fn f() { crate::kernel::f(); }",
            "use etcd_client::Client;",
            "fn f(c: etcd_client::Client) {}",
        ] {
            assert_eq!(faults("agent/src/desired/mod.rs", text).len(), 1, "{text}");
        }
        assert!(faults("agent/src/desired/mod.rs", "use crate::{model::key, tables::Tables};").is_empty());
        assert!(faults("agent/src/store/etcd.rs", "use etcd_client::Client;").is_empty());
    }

    #[test]
    fn name_of_a_runtime_is_found_in_modules_for_any_runtime() {
        let named = |path: &str, text: &str| named_runtimes(Path::new(path), text).len();
        assert_eq!(named("agent/src/endpoints/life.rs", "fn f() {}\n// Docker's\nlet docker = 1;"), 2);
        assert_eq!(named("agent/src/endpoints.rs", "/// of Docker"), 1);
        assert_eq!(named("agent/src/docker/plan.rs", "/// of Docker"), 0);
        assert_eq!(named("agent/src/model/network.rs", "#[serde(rename = \"docker\")]"), 0);
        assert_eq!(named("agent/src/model/a.rs", "fn f() {}\n#[cfg(test)]\nmod tests { /* docker */ }"), 0);
    }

    #[test]
    fn long_functions_and_silent_ignores_are_found() {
        let long = format!("fn f() {{\n{}}}", "f();\n".repeat(90));
        assert_eq!(faults("xtask/src/x.rs", &long).len(), 1);
        assert_eq!(faults("tests/tests/x.rs", "#[test] #[ignore] fn f() {}").len(), 1);
        assert!(faults("tests/tests/x.rs", "#[test] #[ignore = \"slow\"] fn f() {}").is_empty());
    }

    #[test]
    fn attack_whose_test_does_not_exist_is_found() {
        let text = "#[test] fn a() {} #[tokio::test] async fn b() {} fn helper() {} proptest! { fn p(x in 0..9) {} }";
        let (_, tests) = look("x.rs", text);
        let table =
            |proof: &str| format!("| attack | what happens | tests |\n|---|---|---|\n| x | y | {proof} |");
        let unproven = |text: &str| unproven("SECURITY.md", "attack", text, &tests);
        assert!(unproven(&table("`a`, `b`, `p`")).is_empty());
        assert!(unproven("| word | meaning | not |\n|---|---|---|\n| x | y | z |").is_empty());
        for (proof, fault) in
            [("`helper`", "there is no test helper"), ("`a`, `c`", "no test c"), ("a", "names no test")]
        {
            let faults = unproven(&table(proof));
            assert!(
                faults.len() == 1 && faults[0].starts_with("SECURITY.md:3") && faults[0].contains(fault),
                "{faults:?}"
            );
        }
    }
}
