//! `events install-docs`: man pages, and completions for bash, zsh and fish, made from the flags themselves.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap_complete::Shell;

use super::Failure;
use crate::error::chain;

/// The flags of `install-docs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder whose share/ they go to [default: ~/.local, for root /usr/local]
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
}

/// Where each shell looks for completions, below share/.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/events"),
    (Shell::Zsh, "zsh/site-functions/_events"),
    (Shell::Fish, "fish/vendor_completions.d/events.fish"),
];

pub(super) fn run(args: &Args, mut command: clap::Command) -> Result<(), Failure> {
    let usual = || match rustix::process::geteuid().is_root() {
        true => Some("/usr/local".into()),
        false => std::env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".local")),
    };
    let prefix = args.prefix.clone().or_else(usual);
    let prefix =
        prefix.ok_or_else(|| Failure::usage("there is no home directory").hint("name a folder with --prefix"))?;
    let share = prefix.join("share");
    command.build();
    let mut pages = vec![&command];
    pages.extend(command.get_subcommands());
    for page in pages {
        let man = clap_mangen::Man::new(page.clone());
        let mut text = Vec::new();
        man.render(&mut text)?;
        install(&share.join("man/man1").join(man.get_filename()), &text)?;
    }
    for (shell, path) in COMPLETIONS {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, "events", &mut text);
        install(&share.join(path), &text)?;
    }
    Ok(())
}

/// Writes a file, and says so.
fn install(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let folder = path.parent().expect("it is in a folder");
    std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, text)).map_err(|e| {
        Failure::failed(format!("cannot write {}: {}", path.display(), chain(&e))).hint("--prefix names another folder")
    })?;
    Ok(writeln!(io::stdout(), "{}", path.display())?)
}
