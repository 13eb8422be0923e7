//! What the tests share: one harness for the command line, one simulated engine, real engines.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod certificates;
pub(crate) mod command;
pub(crate) mod counter;
pub(crate) mod docker;
pub(crate) mod engine;
pub(crate) mod fixture;
pub(crate) mod hosts;
pub(crate) mod http;
pub(crate) mod installed_docs;
pub(crate) mod line;
pub(crate) mod watching;
