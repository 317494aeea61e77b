//! The `active-vlm` binary: reads the settings, starts telemetry, runs what was asked for until a signal.

use active_vlm::{app, ask, cli, doctor, environment, export, inspect, lab, settings::Settings, telemetry};
use anyhow::Context as _;
use clap::Parser as _;
use cli::{Cli, Command, ConfigCommand, LabCommand};
use std::process::ExitCode;

fn main() -> ExitCode {
    environment::ensure();
    // One TLS provider in the process, chosen before anything can ask for another.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("active-vlm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(&cli.config).context("reading the settings")?;
    match cli.command {
        Command::Serve { no_worker } => {
            let role = if no_worker { app::Role::Api } else { app::Role::Both };
            serve(settings, role)
        }
        Command::Worker => serve(settings, app::Role::Worker),
        Command::Migrate => runtime()?.block_on(app::migrate(&settings)).map(|()| ExitCode::SUCCESS),
        Command::Doctor => Ok(runtime()?.block_on(doctor::run(&settings))),
        Command::Predict(args) => {
            let config = app::engine_config(&settings);
            runtime()?.block_on(ask::run(config, args)).map(|()| ExitCode::SUCCESS)
        }
        Command::Inspect(args) => {
            inspect::run(&app::engine_config(&settings), &args).map(|()| ExitCode::SUCCESS)
        }
        Command::Export(args) => {
            let blobs = app::open_blobs(&settings)?;
            let config = app::engine_config(&settings);
            runtime()?.block_on(export::run(&config, &blobs, args)).map(|()| ExitCode::SUCCESS)
        }
        Command::Train(args) => runtime()?.block_on(lab::train::run(&args)).map(ExitCode::from),
        Command::Import(args) => runtime()?.block_on(lab::import::run(&args)).map(|()| ExitCode::SUCCESS),
        Command::Config(ConfigCommand::Show) => {
            print!("{}", settings.render());
            Ok(ExitCode::SUCCESS)
        }
        Command::Lab(LabCommand::Pretrain(args)) => worded(lab::pretrain::run(&args)),
        Command::Lab(LabCommand::Probe(args)) => worded(lab::probe::run(&args)),
        Command::Lab(LabCommand::Demo(args)) => {
            runtime()?.block_on(lab::demo::run(&args)).map(|()| ExitCode::SUCCESS)
        }
        Command::Lab(LabCommand::Run(args)) => {
            runtime()?.block_on(lab::run::run(&args)).map(|()| ExitCode::SUCCESS)
        }
        Command::Lab(LabCommand::Report(args)) => lab::report::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Lab(LabCommand::ExportWorld(args)) => {
            lab::run::export_world(&args).map(|()| ExitCode::SUCCESS)
        }
    }
}

fn serve(settings: Settings, role: app::Role) -> anyhow::Result<ExitCode> {
    telemetry::init_logs(&settings.log)?;
    let metrics = telemetry::Metrics::install()?;
    let runtime = runtime()?;
    let served = runtime.block_on(async move {
        let app = app::App::start(settings, role, metrics).await?;
        app.run_until(app::signal()).await
    });
    // Work off the async threads (a plan being chosen, an image being decoded) cannot be interrupted. Dropping the
    // runtime would wait for it without end; whatever it writes is dropped as by a crash.
    runtime.shutdown_background();
    served.map(|()| ExitCode::SUCCESS)
}

fn worded(ended: Result<(), lab::pretrain::LabError>) -> anyhow::Result<ExitCode> {
    ended.map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::from_boxed)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the async runtime")
}
