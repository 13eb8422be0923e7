//! `events serve`: serves a store or files as a read-only Docker Engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::args::{SelectionArgs, find_source, warn_healthchecks_in_files};
use super::{Failure, Shared, runtime};
use crate::event::Event;
use crate::http::{Address, Tls};
use crate::query::Selection;
use crate::serve::{Archive, Engine, Feed, History};
use crate::store::Reader;
use crate::stream::load_events;

/// The options of `serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files to serve instead of the store; `-` is standard input
    ///
    /// NDJSON or json-seq, optionally compressed with gzip or zstd.
    #[arg(value_name = "FIXTURE", conflicts_with = "source")]
    fixtures: Vec<PathBuf>,
    /// Address to listen on, such as unix:///run/events.sock; repeatable
    ///
    /// unix:///path (a socket with mode 0660) or tcp://host:port, such as tcp://127.0.0.1:2375. An address that other
    /// machines can reach needs `--tls-cert` and `--tls-key`, or `--allow-remote`.
    #[arg(long, value_name = "ADDRESS", required = true, help_heading = "Server options")]
    listen: Vec<Address>,
    /// Accept connections from other machines without TLS
    #[arg(long, help_heading = "Server options")]
    allow_remote: bool,
    /// Use TLS on TCP addresses with this certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "Server options")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Server options")]
    tls_key: Option<PathBuf>,
    /// Accept only clients with a certificate of these authorities (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Server options")]
    tls_ca: Option<PathBuf>,
    #[command(flatten)]
    history: SelectionArgs,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::new(certificate, key, args.tls_ca.as_deref())?),
        _ => None,
    };
    if let Some(remote) = args.listen.iter().find(|address| !address.is_local())
        && tls.is_none()
        && !args.allow_remote
    {
        return Err(Failure::usage(format!("{remote} can be reached from other machines without TLS"))
            .hint("pass --tls-cert and --tls-key, or --allow-remote to allow it"));
    }
    let selection = args.history.selection()?;
    let engine = Arc::new(if args.fixtures.is_empty() {
        engine_from_store(&shared.db_path()?, selection, args.history.source.as_deref())?
    } else {
        warn_healthchecks_in_files(&selection);
        let feed = Feed::default();
        for (time_nano, raw) in load_events(&args.fixtures)? {
            if Event::parse(&raw).is_ok_and(|event| selection.contains_instant(time_nano) && selection.matches(&event))
            {
                feed.push(&raw);
            }
        }
        Engine::new(History::Feed(feed))
    });
    raise_open_file_limit();
    let runtime = runtime::multi_thread()?;
    let result = runtime.block_on(serve(engine, &args.listen, tls.as_ref()));
    // Readers of disconnected clients get some time to close the store: the last connection removes SQLite's WAL.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

/// Raises the limit of open files to its maximum: each connection is an open file.
fn raise_open_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If this fails, fewer connections are possible.
    let _ = setrlimit(Resource::Nofile, limit);
}

async fn serve(engine: Arc<Engine>, addresses: &[Address], tls: Option<&Tls>) -> Result<(), Failure> {
    let signal_error = |e| Failure::failed(format!("cannot listen for signals: {e}"));
    let mut sigterm = signal(SignalKind::terminate()).map_err(signal_error)?;
    let mut sigint = signal(SignalKind::interrupt()).map_err(signal_error)?;
    let (mut servers, mut bound) = (JoinSet::new(), Vec::new());
    for address in addresses {
        let server = engine.clone().listen(address, tls)?;
        bound.push(server.address().clone());
        servers.spawn(server);
    }
    for address in bound {
        tracing::info!("serving on {address}");
    }
    tokio::select! {
        _ = sigterm.recv() => {}
        _ = sigint.recv() => {}
    }
    // This also removes the socket files.
    servers.shutdown().await;
    Ok(())
}

/// Creates an engine that serves a store.
fn engine_from_store(path: &Path, selection: Selection, source: Option<&str>) -> Result<Engine, Failure> {
    let reader = Reader::open(path)?;
    let source = source.map(|name| find_source(&reader, name)).transpose()?;
    let archive = Archive::open(path, selection, source.as_ref().map(|(_, name)| name.as_str()))?;
    Ok(Engine::new(History::Archive(archive)))
}
