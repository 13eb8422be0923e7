//! What the tests share: one harness for the command line, one simulated engine, real engines.
#![allow(dead_code)]

pub mod certificates;
pub mod command;
pub mod counter;
pub mod docker;
pub mod engine;
pub mod fixture;
pub mod hosts;
pub mod http;
pub mod installed_docs;
pub mod line;
pub mod watching;
