//! What the tests share: one harness for the command line, one simulated engine.
#![allow(dead_code)]

pub mod command;
pub mod counter;
pub mod engine;
pub mod fixture;
pub mod http;
pub mod line;
