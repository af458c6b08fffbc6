//! `kcp`: the tool with which KCP is tried, measured and debugged.

mod args;
mod demo;
mod echo;
mod ping;
mod recv;
mod relay;
mod report;
mod send;
mod sim;
mod transfer;
mod tunnel;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Args::parse_from(tunnel::spelled_out(std::env::args_os())).command {
        Command::Demo(args) => demo::run(args).await,
        Command::Echo(args) => echo::run(args).await,
        Command::Ping(args) => ping::run(args).await,
        Command::Send(args) => send::run(args).await,
        Command::Recv(args) => recv::run(args).await,
        Command::Relay(args) => relay::run(args).await,
        Command::Sim(args) => tokio::task::block_in_place(|| sim::run(&args)),
        Command::Tunnel { side } => tunnel::run(side).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // One clear line, causes included.
            eprintln!("kcp: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever read our output has had enough, as `head` does: no error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<report::StdoutClosed>().is_some()
}
