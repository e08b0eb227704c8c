//! Which of several things a user means by an id, the begin of an id, or a name.

use crate::problem::Rejection;

/// How a thing may be meant.
#[derive(Clone, Copy, Debug)]
pub struct Face<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its name, if it has one.
    pub name: Option<&'a str>,
    /// What it belongs to, to tell it from others.
    pub of: &'a str,
}

/// The one thing that is meant: by its id, else by its name, else by how no other
/// id begins. `None` if there is none; several are a problem that lists them.
pub fn pick<'a, T>(
    kind: &str,
    all: impl IntoIterator<Item = &'a T>,
    wanted: &str,
    face: impl Fn(&T) -> Face<'_>,
) -> Result<Option<&'a T>, Rejection> {
    let all: Vec<&T> = all.into_iter().collect();
    if let Some(found) = all.iter().find(|one| face(one).id == wanted) {
        return Ok(Some(found));
    }
    let one_of = |found: Vec<&'a T>, how: &str| match found[..] {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        _ => {
            let shown = |one: &&T| {
                let Face { id, name, of } = face(one);
                format!("{id} ({}network {of})", name.map(|name| format!("{name}, ")).unwrap_or_default())
            };
            let listed: Vec<String> = found.iter().map(shown).collect();
            let what = format!("several {kind}s {how} {wanted}: {}", listed.join(", "));
            Err(Rejection::invalid(what, "use a prefix of the id that no other id has"))
        }
    };
    let named: Vec<&T> = all.iter().copied().filter(|one| face(one).name == Some(wanted)).collect();
    if !named.is_empty() || wanted.is_empty() {
        return one_of(named, "are named");
    }
    one_of(
        all.into_iter().filter(|one| face(one).id.starts_with(wanted)).collect(),
        "have ids that begin with",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    type One = (&'static str, Option<&'static str>, &'static str);

    fn meant(wanted: &str) -> Result<Option<&'static str>, String> {
        const ALL: [One; 4] = [
            ("aa11", Some("web"), "blue"),
            ("aa22", Some("aa"), "blue"),
            ("bb33", Some("db"), "blue"),
            ("cc44", Some("db"), "red"),
        ];
        let found = pick("endpoint", &ALL, wanted, |one| Face { id: one.0, name: one.1, of: one.2 });
        found.map(|found| found.map(|one| one.0)).map_err(|problem| problem.to_string())
    }

    #[test]
    fn ids_win_over_names_and_names_over_prefixes_of_ids() {
        assert_eq!(meant("aa11"), Ok(Some("aa11")));
        assert_eq!(meant("web"), Ok(Some("aa11")));
        assert_eq!(meant("aa"), Ok(Some("aa22")), "the name");
        assert_eq!(meant("aa1"), Ok(Some("aa11")));
        assert_eq!(meant("b"), Ok(Some("bb33")));
        assert_eq!(meant("nobody"), Ok(None));
        assert_eq!(meant(""), Ok(None));
    }

    #[test]
    fn ambiguous_reference_is_refused_with_all_matches() {
        let told = meant("db").expect_err("two");
        assert!(
            told.contains("bb33 (db, network blue)") && told.contains("cc44 (db, network red)"),
            "{told}"
        );
        let told = meant("a").expect_err("two");
        assert!(told.contains("begin with a: aa11") && told.contains("aa22"), "{told}");
    }
}
