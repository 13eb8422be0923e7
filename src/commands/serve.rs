//! `events serve`: history answers as an engine, and goes on live.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::select::{self, find_source, say_all_untold};
use super::{Failure, Shared};
use crate::event::Event;
use crate::query::Selection;
use crate::serve::{Address, Archive, Engine, Feed, History, Tls};
use crate::store::Reader;
use crate::stream::fixtures;

/// The flags of `serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Serve these files in place of the store: NDJSON or json-seq, also as .gz or .zst; `-`: standard input
    #[arg(value_name = "FIXTURE", conflicts_with = "source")]
    fixtures: Vec<PathBuf>,
    /// Where to listen: unix:///path (mode 0660) or tcp://127.0.0.1:2375; repeatable
    #[arg(long, value_name = "ADDRESS", required = true, help_heading = "Serving")]
    listen: Vec<Address>,
    /// Let other machines read it, without TLS too
    #[arg(long, help_heading = "Serving")]
    allow_remote: bool,
    /// Answer TCP under TLS with this certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "Serving")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Serving")]
    tls_key: Option<PathBuf>,
    /// Answer only clients with a certificate of these authorities (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Serving")]
    tls_ca: Option<PathBuf>,
    #[command(flatten)]
    history: select::History,
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
        return Err(Failure::usage(format!("{remote} can be reached from other machines, by anybody"))
            .hint("--tls-cert and --tls-key, or --allow-remote if that is meant"));
    }
    let selection = args.history.selection()?;
    let engine = Arc::new(if args.fixtures.is_empty() {
        stored(&shared.db()?, selection, args.history.source.as_deref())?
    } else {
        say_all_untold(&selection);
        let feed = Feed::default();
        for (instant, raw) in fixtures(&args.fixtures)? {
            if Event::parse(&raw).is_ok_and(|event| selection.spans(instant) && selection.passes(&event)) {
                feed.push(&raw);
            }
        }
        Engine::new(History::Feed(feed))
    });
    allow_connections();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start: {e}")))?;
    let served = runtime.block_on(serve(engine, &args.listen, tls.as_ref()));
    // What reads the store for a client that is gone closes it, if it soon can: the last one to do so tidies up.
    runtime.shutdown_timeout(Duration::from_millis(500));
    served
}

/// As many connections as the system lets us have: each is an open file.
fn allow_connections() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Else there are fewer.
    let _ = setrlimit(Resource::Nofile, limit);
}

async fn serve(engine: Arc<Engine>, addresses: &[Address], tls: Option<&Tls>) -> Result<(), Failure> {
    let no_signals = |e| Failure::failed(format!("cannot listen for signals: {e}"));
    let mut terminated = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let (mut listening, mut at) = (JoinSet::new(), Vec::new());
    for address in addresses {
        let here = engine.clone().listen(address, tls)?;
        at.push(here.at().clone());
        listening.spawn(here);
    }
    for address in at {
        tracing::info!("serving on {address}");
    }
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    // The sockets' files go with them.
    listening.shutdown().await;
    Ok(())
}

/// The engine that a store makes.
fn stored(path: &Path, selection: Selection, source: Option<&str>) -> Result<Engine, Failure> {
    let reader = Reader::open(path)?;
    let source = source.map(|name| find_source(&reader, name)).transpose()?;
    let archive = Archive::open(path, selection, source.as_ref().map(|(_, name)| name.as_str()))?;
    Ok(Engine::new(History::Archive(archive)))
}
