//! HTTP servers: addresses, listening, limits for every connection, and simple pages. The engine that `serve` emulates
//! and the recorder's metrics share it.
//!
//! This module does not know what a server answers.

mod address;
mod guard;
mod listener;
mod pages;

pub use address::{Address, ParseAddressError};
pub(crate) use guard::{Flushed, malformed_reason};
pub(crate) use listener::listen;
pub use listener::{ListenError, Server, Tls};
pub use pages::{Page, PageHandler, serve_pages};
