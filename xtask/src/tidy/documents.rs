//! What documents have to be: free of retired words, with links that lead somewhere, and short
//! where they are to be read at once.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::retired::{Paragraphs, paragraphs, retired};
use crate::run::root;

/// Sections that explain words, retired ones too.
const GLOSSARY: &str = "## Glossary";

/// The overview is read at once, so it is short.
const OVERVIEW: (&str, usize) = ("ARCHITECTURE.md", 250);

/// Checks the documents.
pub fn check(faults: &mut Vec<String>) -> Result<()> {
    for path in super::files(&["*.md"])? {
        let text = read(&path)?;
        let name = path.display().to_string();
        faults.extend(retired(&name, &prose(&text)));
        faults.extend(broken_links(&path, &text)?);
        if name == OVERVIEW.0 && text.lines().count() > OVERVIEW.1 {
            faults.push(format!("{name}: {} lines, at most {}", text.lines().count(), OVERVIEW.1));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| path.display().to_string())
}

/// What a document says in words: neither indented code nor a glossary.
fn prose(text: &str) -> Paragraphs {
    let mut glossary = false;
    paragraphs(text.lines().map(|line| {
        glossary = if line.starts_with("## ") { line == GLOSSARY } else { glossary };
        if glossary || line.starts_with("    ") { "" } else { line }
    }))
}

/// Links within the repository that lead nowhere.
fn broken_links(path: &Path, text: &str) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with("    ")) {
        for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !target.contains("://") && !leads_somewhere(path, text, target)? {
                faults.push(format!("{}:{}: {target} leads nowhere", path.display(), number + 1));
            }
        }
    }
    Ok(faults)
}

fn leads_somewhere(path: &Path, text: &str, target: &str) -> Result<bool> {
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    if file.is_empty() {
        return Ok(has_heading(text, heading));
    }
    let file = root().join(path).with_file_name("").join(file);
    if heading.is_empty() || !file.exists() {
        return Ok(file.exists());
    }
    Ok(has_heading(&fs::read_to_string(&file).with_context(|| file.display().to_string())?, heading))
}

/// Whether a document has a heading by this name, as GitHub makes names of headings.
fn has_heading(text: &str, name: &str) -> bool {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let mut names = headings.map(|line| {
        let words = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect::<String>()
    });
    names.any(|found| found == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retired_words_are_found_in_prose_alone() {
        for text in ["The guard, too.", "| a | Guard |", "one\nis kept\nback here", "[guard](x.md)"] {
            assert_eq!(retired("x.md", &prose(text)).len(), 1, "{text}");
        }
        for text in [
            "`margay guard`",
            "    guard",
            "safeguard",
            "## Glossary\n\nguard",
            "[a](guard.md)",
            "from_guard",
        ] {
            assert!(retired("x.md", &prose(text)).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_retired_word_is_reported_with_the_line_of_its_paragraph() {
        let faults = retired("x.md", &prose("# A\n\nall fine\n\nis written\nanew\n"));
        assert_eq!(faults, ["x.md:5: \"anew\" is retired: again"]);
    }

    #[test]
    fn links_lead_to_files_and_headings() {
        let text = "# A `b` c, d\n";
        for (target, good) in [("#a-b-c-d", true), ("#a", false), ("Cargo.toml", true), ("none.md", false)] {
            assert_eq!(leads_somewhere(Path::new("x.md"), text, target).expect("reads"), good, "{target}");
        }
    }
}
