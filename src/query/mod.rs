//! Parses filters and times, and turns them into store queries and a predicate for their results.
//!
//! Filter semantics are defined once, in [`filter`]; a store query only narrows the search. This module is independent
//! of HTTP, SQL and terminals.

pub mod filter;
pub mod image_name;
mod run;
mod selection;
pub mod time;

pub use filter::{Filter, FilterError};
pub use run::SelectedEvents;
pub use selection::{Limit, Selection, SelectionError};
