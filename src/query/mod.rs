//! Filters and times → what to ask of the store, and which of the answers to keep.
//!
//! The filter's meaning stands once, in [`filter`]; what is asked of the store only narrows. Knows no HTTP and no
//! terminal.

pub mod filter;
pub mod reference;
mod selection;
pub mod time;

pub use filter::{Filter, FilterError};
pub use selection::{Cut, Selection, SelectionError};
