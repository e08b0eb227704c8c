//! Retired words: in documents, and in comments and texts of Rust sources. A glossary in
//! ARCHITECTURE.md says what each word of the project means.

use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

/// A retired word or phrase in lower case, and what to write instead.
const RETIRED: [(&str, &str); 26] = [
    ("guard", "deny list (of prefixes), sequence key (of the store)"),
    ("blocked prefix", "denied prefix"),
    ("blocked prefixes", "denied prefixes"),
    ("workload", "container, endpoint, or sender"),
    ("workloads", "containers, endpoints, or senders"),
    ("tombstone", "the node's key in removed/"),
    ("kept back", "in the stash"),
    ("keeps back", "reserves, has in the stash"),
    ("vouched for", "fresh"),
    ("vouches for", "keeps fresh"),
    ("mend", "what to do, correction"),
    ("anew", "again"),
    ("all of it", "name the thing"),
    ("that nobody asked for", "automatic, unsolicited"),
    ("nobody asks for", "name what does not ask"),
    ("has no word in", "does not decide"),
    ("is told of", "is reported"),
    ("is told so", "hears why"),
    ("that there are not", "that do not exist"),
    ("all the same", "still"),
    ("as ever", "as before"),
    ("book", "list, register, record"),
    ("block list", "deny list"),
    ("whoever", "name who"),
    ("business", "task, concern, or name it"),
    ("vouch for", "keep fresh"),
];

/// The command whose name is a retired word.
const COMMAND: &str = "margay guard";

/// Sources that may use retired words: this table.
fn is_exempt(path: &Path) -> bool {
    path.starts_with("xtask/src/tidy")
}

/// Paragraphs with the number of their first line, since a phrase may go over the end of a line.
pub type Paragraphs = Vec<(usize, String)>;

/// Checks the comments and texts of a Rust source; `tokens` are those of the file.
pub fn check_source(path: &Path, text: &str, tokens: TokenStream) -> Vec<String> {
    if is_exempt(path) {
        return Vec::new();
    }
    let mut said = comments(text);
    texts(text, tokens, &mut said);
    retired(&path.display().to_string(), &said)
}

/// The comments of a source that have lines of their own.
fn comments(text: &str) -> Paragraphs {
    paragraphs(text.lines().map(|line| {
        let comment = line.trim().strip_prefix("//").unwrap_or_default();
        comment.trim_start_matches(['/', '!']).trim()
    }))
}

/// Adds texts of several words: a text of one is a name. Placeholders are left out.
fn texts(source: &str, tokens: TokenStream, said: &mut Paragraphs) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => texts(source, group.stream(), said),
            TokenTree::Literal(literal) => {
                let line = literal.span().start().line;
                let is_comment = |line: &str| line.trim_start().starts_with("//");
                let syn::Lit::Str(text) = syn::Lit::new(literal) else { continue };
                if text.value().contains(' ') && !source.lines().nth(line - 1).is_some_and(is_comment) {
                    said.push((line, without_placeholders(&text.value().replace(COMMAND, ""))));
                }
            }
            _ => {}
        }
    }
}

fn without_placeholders(text: &str) -> String {
    let mut parts = text.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |said, part| said + " . " + part.split_once('}').map_or(part, |(_, rest)| rest))
}

/// Joins lines to paragraphs; an empty line ends one.
pub fn paragraphs<'a>(lines: impl Iterator<Item = &'a str>) -> Paragraphs {
    let mut found = Paragraphs::new();
    let mut open = false;
    for (number, line) in lines.enumerate() {
        match found.last_mut().filter(|_| open) {
            Some((_, paragraph)) if !line.is_empty() => *paragraph += &format!(" {}", line.trim()),
            _ if !line.is_empty() => found.push((number + 1, line.trim().to_owned())),
            _ => {}
        }
        open = !line.is_empty();
    }
    found
}

/// What is said with a retired word.
pub fn retired(name: &str, paragraphs: &Paragraphs) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, paragraph) in paragraphs {
        let words = spoken(paragraph);
        for (phrase, instead) in RETIRED.iter().filter(|(phrase, _)| words.contains(&format!(" {phrase} "))) {
            faults.push(format!("{name}:{number}: \"{phrase}\" is retired: {instead}"));
        }
    }
    faults
}

/// The words of a paragraph in lower case, one blank before and behind each, without what stands
/// in backticks or is the target of a link.
fn spoken(paragraph: &str) -> String {
    let outside: String = paragraph.split('`').step_by(2).collect::<Vec<_>>().join(" . ");
    let texts = outside.split("](").enumerate();
    let outside: String = texts
        .map(
            |(number, part)| {
                if number == 0 { part } else { part.split_once(')').map_or(part, |(_, rest)| rest) }
            },
        )
        .collect::<Vec<_>>()
        .join(" ");
    let words = outside
        .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .filter(|word| !word.is_empty());
    format!(" {} ", words.collect::<Vec<_>>().join(" ").to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        check_source(Path::new(path), text, text.parse().expect("tokens")).len()
    }

    #[test]
    fn retired_words_are_found_in_comments_and_texts_of_sources() {
        for text in [
            "/// The guard\nfn f() {}",
            "fn f() {\n    // It is kept\n    // back.\n}",
            "fn f() { bail!(\"made anew: {}\", x) }",
            "const A: &str = \"is \\\n    anew\";",
        ] {
            assert_eq!(count("x.rs", text), 1, "{text}");
        }
        for text in [
            "fn guard(anew: u8) {}",
            "const A: &str = \"guard\";",
            "fn f() { bail!(\"{guard} is off: margay guard ls\") }",
            "/// `guard`\nfn f() {}",
        ] {
            assert_eq!(count("x.rs", text), 0, "{text}");
        }
        assert_eq!(count("xtask/src/tidy/x.rs", "// anew\n"), 0, "the table itself");
    }
}
