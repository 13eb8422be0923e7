//! `events install-docs`: installs man pages, and completions for bash, zsh and fish. They are generated from the
//! definition of the command line.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap_complete::Shell;

use super::Failure;
use crate::error::chain;

/// The options of `install-docs`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Install under DIR/share
    ///
    /// The default is ~/.local, or /usr/local for root.
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
}

/// Path of the completion file of each shell, below `share/`.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/events"),
    (Shell::Zsh, "zsh/site-functions/_events"),
    (Shell::Fish, "fish/vendor_completions.d/events.fish"),
];

pub(super) fn run(args: &Args, mut command: clap::Command) -> Result<(), Failure> {
    let default_prefix = || match rustix::process::geteuid().is_root() {
        true => Some("/usr/local".into()),
        false => std::env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".local")),
    };
    let prefix = args.prefix.clone().or_else(default_prefix);
    let prefix =
        prefix.ok_or_else(|| Failure::usage("cannot find a home directory").hint("pass a directory with --prefix"))?;
    let share = prefix.join("share");
    command.build();
    let mut pages = vec![&command];
    pages.extend(command.get_subcommands());
    for page in pages {
        let man = clap_mangen::Man::new(page.clone());
        install(&share.join("man/man1").join(man.get_filename()), &man_page(&man, page.clone())?)?;
    }
    for (shell, path) in COMPLETIONS {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, "events", &mut text);
        install(&share.join(path), &text)?;
    }
    Ok(())
}

/// Renders a man page with the usage line of `--help`. The usage line of clap_mangen lists each flag without its value.
fn man_page(man: &clap_mangen::Man, mut command: clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").replace('-', "\\-");
    writeln!(page, ".SH SYNOPSIS\n{usage}")?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    writeln!(page, ".SH \"EXIT STATUS\"\n0: success, including no matches. 1: failure. 2: usage error.")?;
    Ok(page)
}

/// Writes a file and prints its path.
fn install(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let dir = path.parent().expect("the path has a parent");
    std::fs::create_dir_all(dir).and_then(|()| std::fs::write(path, text)).map_err(|e| {
        Failure::failed(format!("cannot write {}: {}", path.display(), chain(&e)))
            .hint("pass another directory with --prefix")
    })?;
    Ok(writeln!(io::stdout(), "{}", path.display())?)
}
