//! Text that others wrote: names, comments, reasons. It is checked where it
//! comes in, and printed by way of [`plain`] alone.

use std::borrow::Cow;

/// Whether a character acts on a terminal, or hides what stands beside it: C0,
/// DEL and C1 (ECMA-48), separators of lines, controls of direction (UAX #9),
/// what has no width, and tags.
pub fn acts(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Text as it may stand in a table, an error or the log: what acts is escaped as
/// Rust writes it (`\u{1b}`), line breaks too, and the numbers and names that the
/// C library gives errors are left out. The same again changes nothing.
pub fn plain(text: &str) -> Cow<'_, str> {
    let text = without_numbers(text);
    if !text.contains(acts) {
        return text;
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// JSON as it may be printed: what JSON itself leaves as it is and a terminal acts
/// on is escaped, so that it reads back the same.
pub fn plain_json(json: &str) -> Cow<'_, str> {
    let hides = |c: char| acts(c) && c != '\n';
    if !json.contains(hides) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if hides(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// What an error and its causes say, as [`plain`] has it.
pub fn of(error: &anyhow::Error) -> String {
    plain(&format!("{error:#}")).into_owned()
}

/// Checks a name or comment that somebody gave: 1 to `max` characters that are
/// seen, none of white space at the ends.
pub fn check(what: &str, text: &str, max: usize) -> Result<(), Unseemly> {
    let fits = (1..=max).contains(&text.chars().count()) && text.trim() == text;
    if fits && !text.contains(acts) {
        return Ok(());
    }
    // Not all of a long one is needed to find it.
    let start: String = text.chars().take(80).collect();
    Err(Unseemly { what: what.into(), text: plain(&start).into_owned(), max })
}

/// Text that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} \"{text}\": use 1 to {max} visible characters, without control characters")]
pub struct Unseemly {
    what: String,
    text: String,
    max: usize,
}

/// Takes ` (os error 22)` and, from the front of a cause, `EINVAL: ` out.
fn without_numbers(text: &str) -> Cow<'_, str> {
    const NUMBER: &str = " (os error ";
    const NETLINK: &str = "Received a netlink error message ";
    if !text.contains(NUMBER) && !text.contains(": ") && !text.contains(NETLINK) {
        return Cow::Borrowed(text);
    }
    let mut left = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(NUMBER) {
        let end = after.find(')').filter(|end| after[..*end].bytes().all(|b| b.is_ascii_digit()));
        left.push_str(before);
        match end {
            Some(end) => rest = &after[end + 1..],
            None => {
                left.push_str(NUMBER);
                rest = after;
            }
        }
    }
    left.push_str(rest);
    let left = left.replace(NETLINK, "the kernel says: ");
    let causes: Vec<&str> = left.split(": ").filter(|cause| !is_errno(cause)).collect();
    Cow::Owned(causes.join(": "))
}

/// Whether a cause is the C library's name of an error number: `EINVAL`.
fn is_errno(cause: &str) -> bool {
    cause.len() > 3
        && cause.starts_with('E')
        && cause.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        && nix_knows(cause)
}

/// The names that Linux has, as far as anything here meets them.
fn nix_knows(name: &str) -> bool {
    const NAMES: [&str; 34] = [
        "EPERM",
        "ENOENT",
        "ESRCH",
        "EINTR",
        "EIO",
        "ENXIO",
        "E2BIG",
        "EBADF",
        "EAGAIN",
        "ENOMEM",
        "EACCES",
        "EFAULT",
        "EBUSY",
        "EEXIST",
        "EXDEV",
        "ENODEV",
        "ENOTDIR",
        "EISDIR",
        "EINVAL",
        "EMFILE",
        "ENFILE",
        "ENOTTY",
        "EFBIG",
        "ENOSPC",
        "EROFS",
        "ERANGE",
        "ENAMETOOLONG",
        "ENOSYS",
        "ELOOP",
        "EOPNOTSUPP",
        "EADDRINUSE",
        "EADDRNOTAVAIL",
        "ENETDOWN",
        "ECONNREFUSED",
    ];
    NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn printed_text_never_acts_on_a_terminal() {
        let hostile = "a\u{1b}[2Jb\r\nc\u{7f}\u{9b}31m\u{202e}d\u{200b}\u{2066}e\u{e0041}";
        let told = plain(hostile);
        assert!(!told.contains(acts), "{told:?}");
        assert!(told.starts_with("a\\u{1b}[2Jb\\r\\nc\\u{7f}\\u{9b}31m"), "{told}");
        assert_eq!(plain(&told), told, "again changes nothing");
        assert_eq!(plain("Zürich → 東京 ok"), "Zürich → 東京 ok");
    }

    #[test]
    fn escaped_json_has_the_same_value_and_no_control_characters() {
        let value = serde_json::json!({"name": "a\u{1b}\u{7f}\u{9b}\u{202e}\u{e0041}\nb", "n": [1, 2]});
        let told = serde_json::to_string_pretty(&value).expect("JSON");
        let told = plain_json(&told);
        assert!(!told.contains(|c| acts(c) && c != '\n'), "{told:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&told).expect("JSON"), value);
    }

    #[test]
    fn errors_of_the_system_are_printed_without_numbers_and_codes() {
        let io = std::io::Error::from_raw_os_error(22);
        let told = of(&Err::<(), _>(io).context("set mgy0").expect_err("one"));
        assert_eq!(told, "set mgy0: Invalid argument");
        assert_eq!(plain("a: EPERM: Operation not permitted"), "a: Operation not permitted");
        assert_eq!(
            plain("Received a netlink error message Device or resource busy (os error 16)"),
            "the kernel says: Device or resource busy"
        );
        assert_eq!(plain("EAST: a name stays (os error of sorts)"), "EAST: a name stays (os error of sorts)");
    }

    #[test]
    fn names_with_control_characters_are_refused() {
        for good in ["web", "web 1", "Zürich"] {
            assert_eq!(check("name", good, 8), Ok(()), "{good}");
        }
        for bad in ["", " a", "a ", "a\nb", "a\u{1b}[2J", "a\u{202e}b", "much too long"] {
            let told = check("name", bad, 8).expect_err(bad).to_string();
            assert!(!told.contains(acts) && told.contains("visible"), "{told:?}");
        }
    }
}
