//! Something that is wrong and what mends it, as two fields from where it
//! arises to where it is read.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::words::plain;

/// Something that is wrong.
///
/// It is an error, so that it passes through `anyhow` on its way to whoever tells
/// of it, who has the two fields back by [`Problem::of`]. Where both have to
/// stand in one line, a semicolon is between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{problem}; {mend}")]
pub struct Problem {
    /// What is wrong and what follows from it, in a sentence.
    pub problem: String,
    /// What mends it: a command, a setting, or whom to wait for.
    pub mend: String,
}

impl Problem {
    /// That something is wrong.
    pub fn new(problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { problem: plain(&problem.into()).into_owned(), mend: mend.into() }
    }

    /// What an error tells, with the mend of the problem that caused it; `mend`
    /// where no problem did.
    pub fn of(error: &anyhow::Error, mend: &str) -> Self {
        let mut told: Vec<String> = Vec::new();
        for cause in error.chain() {
            if let Some(found) = cause.downcast_ref::<Self>() {
                told.push(found.problem.clone());
                return Self::new(told.join(": "), found.mend.clone());
            }
            told.push(cause.to_string());
        }
        Self::new(plain(&told.join(": ")), mend)
    }

    /// The same with what it hinders in front.
    pub fn within(self, context: &str) -> Self {
        Self { problem: format!("{context}: {}", self.problem), ..self }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn the_mend_stays_a_field_of_its_own_through_any_context() {
        let down = Problem::new("uplink eth0 is down; it carries nothing", "ip link set eth0 up");
        let error = Err::<(), _>(anyhow::Error::from(down)).context("this host").expect_err("it is one");
        let told = Problem::of(&error, "wait");
        assert_eq!(told.problem, "this host: uplink eth0 is down; it carries nothing");
        assert_eq!(told.mend, "ip link set eth0 up");
        let io = std::io::Error::from_raw_os_error(13);
        assert_eq!(Problem::new(format!("no way in: {io}"), "").problem, "no way in: Permission denied");
        assert_eq!(Problem::of(&anyhow!("a; b").context("c"), "wait"), Problem::new("c: a; b", "wait"));
    }
}
