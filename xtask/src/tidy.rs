//! `tidy`: the repository's own rules, as far as reading the source can tell.

use crate::run;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// allocscope's stages: each imports only what is before it. What is not named here, such as
/// `failure`, may be imported by all.
const STAGES: [&str; 11] = [
    "cli",
    "config",
    "target",
    "site",
    "allocator",
    "probe",
    "intake",
    "symbol",
    "aggregate",
    "advice",
    "export",
];
/// What wires the stages, and so comes after all.
const WIRING: [&str; 4] = ["command", "session", "selfmon", "shutdown"];
/// Stages without I/O, and the one folder among them that has a socket.
const PURE: [&str; 6] = ["site", "allocator", "symbol", "aggregate", "advice", "export"];
const SOCKET: &str = "export/http";
const WORLD: [&str; 3] = ["fs", "net", "process"];
const LIBRARIES: [&str; 2] = ["std::", "tokio::"];

const PACKAGES: [&str; 4] = ["allocscope", "allocscope-common", "allocscope-ebpf", "xtask"];

/// Runs the task.
pub fn main() -> Result<()> {
    let mut files = Vec::new();
    for package in PACKAGES {
        collect(&run::root().join(package), &mut files)?;
    }
    files.sort();
    let mut findings = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(run::root()).unwrap_or(file);
        findings
            .extend(examine(name, &text).into_iter().map(|finding| format!("{}: {finding}", name.display())));
    }
    findings.iter().for_each(|finding| eprintln!("{finding}"));
    if !findings.is_empty() {
        bail!("{} findings in {} files", findings.len(), files.len());
    }
    eprintln!("{} files follow the rules", files.len());
    Ok(())
}

/// Rust files, but for build output and hidden folders.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry.context("cannot list a folder")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, files)?;
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// What is against the rules in one file.
fn examine(name: &Path, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        findings.push("does not begin with a `//!` line".to_owned());
    }
    findings.extend(undocumented_unsafe(text));
    let Ok(inner) = name.strip_prefix("allocscope/src") else {
        return findings;
    };
    if inner.ends_with("tests.rs") {
        return findings;
    }
    let stage = inner.iter().next().unwrap_or_default().to_string_lossy();
    let stage = stage.trim_end_matches(".rs");
    let code = shipped_code(text);
    findings.extend(rightward_imports(stage, &code));
    if PURE.contains(&stage) && !inner.starts_with(SOCKET) {
        for library in LIBRARIES {
            let used = segments_after(&code, library);
            let used = used.into_iter().filter(|module| WORLD.contains(&module.as_str()));
            findings.extend(used.map(|module| format!("{stage} does no I/O and uses {library}{module}")));
        }
    }
    findings
}

fn rightward_imports(stage: &str, code: &str) -> Vec<String> {
    let Some(own) = STAGES.iter().position(|name| *name == stage) else {
        return Vec::new();
    };
    let is_right = |name: &str| {
        let place = STAGES.iter().position(|stage| *stage == name);
        // Core code never sees clap: only config reads the command line.
        WIRING.contains(&name) || place > Some(own) || (name == "cli" && !["cli", "config"].contains(&stage))
    };
    let mut names = segments_after(code, "crate::");
    names.retain(|name| is_right(name));
    names.dedup();
    names.iter().map(|name| format!("stage {stage} imports {name}")).collect()
}

/// The first path segments after each `prefix` such as `crate::`, groups in braces included.
fn segments_after(code: &str, prefix: &str) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let mut found = Vec::new();
    for (start, _) in code.match_indices(prefix) {
        let before = code[..start].chars().next_back();
        let after = &code[start + prefix.len()..];
        if before.is_some_and(is_word) {
            continue;
        }
        match after.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.push(after.chars().take_while(|c| is_word(*c)).collect()),
        }
    }
    found
}

/// `a::{b, c}, d::e}` to a, d.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = vec![String::new()];
    let mut depth = 0;
    let mut is_head = true;
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            '{' => depth += 1,
            ',' if depth == 0 => {
                heads.push(String::new());
                is_head = true;
            }
            ':' if depth == 0 => is_head = false,
            c if depth == 0 && is_head && (c.is_alphanumeric() || c == '_') => {
                heads.last_mut().into_iter().for_each(|head| head.push(c));
            }
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

/// Without comments and strings, up to the tests at the bottom.
fn shipped_code(text: &str) -> String {
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
    lines.map(|line| bare(line) + "\n").collect()
}

/// A line without its comment and without what is in its quotes.
fn bare(line: &str) -> String {
    let mut out = String::new();
    let mut in_quotes = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_quotes => {
                chars.next();
            }
            '"' => in_quotes = !in_quotes,
            '/' if !in_quotes && chars.peek() == Some(&'/') => break,
            c if !in_quotes => out.push(c),
            _ => {}
        }
    }
    out
}

/// Blocks and impls of `unsafe` without a SAFETY comment above their statement.
fn undocumented_unsafe(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let is_bad = |at: &usize| opens_unsafe(&lines, *at) && !has_reason(&lines[..*at]);
    (0..lines.len())
        .filter(is_bad)
        .map(|at| format!("line {}: unsafe without a SAFETY comment above", at + 1))
        .collect()
}

fn opens_unsafe(lines: &[&str], at: usize) -> bool {
    let line = bare(lines[at]);
    let mut words = line.split_inclusive([' ', '(', '=']).skip_while(|word| word.trim() != "unsafe").skip(1);
    words.next().is_some_and(|next| next.starts_with('{') || next.starts_with("impl"))
}

/// Looks up from an unsafe line through the beginning of its statement, attributes and comments.
fn has_reason(above: &[&str]) -> bool {
    for line in above.iter().rev() {
        let line = line.trim();
        if line.starts_with("// SAFETY:") || line.starts_with("/// SAFETY:") {
            return true;
        }
        let is_comment = line.starts_with("//") || line.starts_with("#[");
        if !is_comment && (line.is_empty() || line.ends_with([';', '{', '}', ','])) {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(name: &str, text: &str) -> Vec<String> {
        examine(Path::new(name), &format!("//! A file.\n{text}"))
    }

    #[test]
    fn stages_import_leftwards() {
        assert!(findings("allocscope/src/export/table/mod.rs", "use crate::aggregate::Snapshot;").is_empty());
        assert!(
            findings("allocscope/src/allocator/go.rs", "use crate::{failure::Exit, site::{Plan, Site}};")
                .is_empty()
        );
        assert!(findings("allocscope/src/session.rs", "use crate::export::http;").is_empty());
        assert!(findings("allocscope/src/site/mod.rs", "//! See [`crate::allocator`].").is_empty());
    }

    #[test]
    fn rightward_imports_are_found() {
        let found = findings(
            "allocscope/src/site/plan.rs",
            "use crate::{\n    target::X,\n    allocator::{Y, Z},\n};",
        );
        assert_eq!(found, ["stage site imports allocator"]);
        assert_eq!(findings("allocscope/src/config.rs", "fn f() { crate::command::g() }").len(), 1);
        assert_eq!(findings("allocscope/src/target/mod.rs", "use crate::cli::Cli;").len(), 1);
        assert!(findings("allocscope/src/config.rs", "use crate::cli::Cli;").is_empty());
    }

    #[test]
    fn pure_stages_have_no_world() {
        assert_eq!(findings("allocscope/src/export/json.rs", "use std::{fmt, fs};").len(), 1);
        assert_eq!(findings("allocscope/src/site/mod.rs", "use std::net::TcpStream;").len(), 1);
        assert_eq!(findings("allocscope/src/export/page.rs", "use tokio::{fs, sync::mpsc};").len(), 1);
        assert!(findings("allocscope/src/export/http/mod.rs", "use std::net::TcpStream;").is_empty());
        assert!(
            findings("allocscope/src/site/mod.rs", "#[cfg(test)]\nmod tests { use std::fs; }").is_empty()
        );
    }

    #[test]
    fn unsafe_wants_a_reason() {
        assert_eq!(findings("xtask/src/a.rs", "fn f() {\n    unsafe { g() };\n}").len(), 1);
        assert_eq!(findings("xtask/src/a.rs", "// SAFETY: far\n\nunsafe impl A for B {}").len(), 1);
        assert!(
            findings("xtask/src/a.rs", "// SAFETY: near,\n// so.\n#[a]\nlet x =\n    unsafe { g() };")
                .is_empty()
        );
        assert!(
            findings("xtask/src/a.rs", "let text = \"unsafe { }\"; // unsafe { }\nunsafe fn f() {}")
                .is_empty()
        );
    }

    #[test]
    fn files_say_what_they_are() {
        assert_eq!(examine(Path::new("xtask/src/a.rs"), "use a;\n").len(), 1);
    }
}
