//! Support for all tests: a harness for the command line, a simulated engine, real engines.
#![allow(dead_code, reason = "each test binary uses only a part")]

pub(crate) mod certificates;
pub(crate) mod command;
pub(crate) mod docker;
pub(crate) mod engine;
pub(crate) mod fixture;
pub(crate) mod hosts;
pub(crate) mod http;
pub(crate) mod installed_docs;
pub(crate) mod metrics_server;
pub(crate) mod tcp_proxy;
pub(crate) mod watching;
