//! Something that is wrong and what mends it, as two fields from where it
//! arises to where it is read.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::words::plain;

/// Something that is wrong.
///
/// It is an error, so that it passes through `anyhow`; [`Problem::of`] gets the two fields back
/// for the reader. In one line a semicolon separates them.
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

    /// The text of an error, and what to do by the problem that caused it; `mend` if no problem
    /// did.
    pub fn of(error: &anyhow::Error, mend: &str) -> Self {
        let mut told: Vec<String> = Vec::new();
        for cause in error.chain() {
            let refused = || cause.downcast_ref::<Rejection>().map(Rejection::problem);
            if let Some(found) = cause.downcast_ref::<Self>().or_else(refused) {
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

/// Why a request is refused, by what its sender can do about it. What is neither
/// of these is a failure of the agent or the host.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejection {
    /// The request makes no sense: correct it.
    #[error(transparent)]
    Invalid(Problem),
    /// What it names does not exist.
    #[error(transparent)]
    Missing(Problem),
    /// What exists is in its way: it exists already, is in use, overlaps, or is full.
    #[error(transparent)]
    Conflict(Problem),
    /// It cannot be done now, and waiting does not help: somebody has to correct something.
    #[error(transparent)]
    Unavailable(Problem),
    /// It cannot be done now: send it again in a while.
    #[error(transparent)]
    Later(Problem),
}

impl Rejection {
    /// The request makes no sense.
    pub fn invalid(problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Invalid(Problem::new(problem, mend))
    }

    /// What it names does not exist.
    pub fn missing(problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Missing(Problem::new(problem, mend))
    }

    /// What exists is in its way.
    pub fn conflict(problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Conflict(Problem::new(problem, mend))
    }

    /// Others changed the same at every attempt.
    pub fn contended(problem: impl Into<String>) -> Self {
        Self::Later(Problem::new(problem, "try again"))
    }

    /// What is wrong and what mends it.
    pub fn problem(&self) -> &Problem {
        match self {
            Self::Invalid(problem)
            | Self::Missing(problem)
            | Self::Conflict(problem)
            | Self::Unavailable(problem)
            | Self::Later(problem) => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn correction_stays_a_separate_field_under_any_context() {
        let down = Problem::new("uplink eth0 is down; it carries nothing", "ip link set eth0 up");
        let error = Err::<(), _>(anyhow::Error::from(down)).context("this host").expect_err("it is one");
        let told = Problem::of(&error, "wait");
        assert_eq!(told.problem, "this host: uplink eth0 is down; it carries nothing");
        assert_eq!(told.mend, "ip link set eth0 up");
        let refused = Rejection::conflict("it exists", "choose another");
        let error =
            Err::<(), _>(anyhow::Error::from(refused)).context("network blue").expect_err("it is one");
        assert_eq!(Problem::of(&error, "wait"), Problem::new("network blue: it exists", "choose another"));
        assert!(
            error.downcast_ref::<Rejection>().is_some() && format!("{error:#}").ends_with("; choose another")
        );
        let io = std::io::Error::from_raw_os_error(13);
        assert_eq!(Problem::new(format!("no way in: {io}"), "").problem, "no way in: Permission denied");
        assert_eq!(Problem::of(&anyhow!("a; b").context("c"), "wait"), Problem::new("c: a; b", "wait"));
    }
}
