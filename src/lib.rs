//! Records what a Docker Engine tells on `/events`, and plays it back.
pub mod commands;
pub mod engine;
pub mod event;
pub mod output;
pub mod query;
pub mod serve;
pub mod store;
pub mod stream;
