//! What the tests share: one harness for the command line, one simulated engine.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod command;
pub(crate) mod counter;
pub(crate) mod engine;
pub(crate) mod fixture;
pub(crate) mod http;
pub(crate) mod line;
