//! From what is to what should be: which changes, in which order, and when to
//! try again what failed. Pure.

pub mod open;
pub mod plan;
pub mod retry;

pub use open::{Lane, Open};
pub use plan::{Change, plan};
pub use retry::{Pending, Retry};
