//! Candidates as the command line names them.

use std::ffi::OsStr;

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};

use super::{ALL, Candidate};

impl Candidate {
    /// Whether a name means it: its own, or its first words where no candidate has
    /// them as a name.
    pub fn is_called(&self, name: &str) -> bool {
        let begins = || self.name.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '));
        self.name == name || (ALL.iter().all(|other| other.name != name) && begins())
    }
}

/// Takes what means a candidate; help lists all of them, and so does the error about
/// what means none.
#[derive(Clone)]
pub struct Names;

impl TypedValueParser for Names {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, Error> {
        let known = |name: &&str| ALL.iter().any(|candidate| candidate.is_called(name));
        match value.to_str().filter(known) {
            Some(name) => Ok(name.to_owned()),
            // It is none of these either, and clap words the refusal.
            None => PossibleValuesParser::from(ALL.map(value_of)).parse_ref(command, arg, value),
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(ALL.into_iter().map(value_of)))
    }
}

fn value_of(candidate: Candidate) -> PossibleValue {
    PossibleValue::new(candidate.name).help(candidate.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(name: &str) -> Vec<&'static str> {
        ALL.iter().filter(|candidate| candidate.is_called(name)).map(|candidate| candidate.name).collect()
    }

    #[test]
    fn leading_words_select_all_matches_unless_they_are_a_full_name() {
        let bridges = ["docker bridge + routes", "docker bridge + ports", "docker bridge + proxy"];
        assert_eq!(called("docker bridge"), bridges);
        assert_eq!(called("margay"), ["margay"], "not those with BIG TCP or netkits");
        assert_eq!(called("docker over"), [""; 0], "no whole word");
        assert_eq!(called(""), [""; 0]);
    }
}
