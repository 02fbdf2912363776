//! `setup`: a machine into one that can build allocscope and run its tests.

mod allocators;
mod bcc;
mod bpf;
mod bpftrace;
mod cross;
mod debian;
mod folder;
pub mod go;
mod go_programs;
pub mod kernel;
pub mod miri;
mod prometheus;

use anyhow::{Result, bail};
use std::path::PathBuf;
use std::time::Instant;

/// Install what building allocscope and running its tests need.
#[derive(clap::Args)]
pub struct Args {
    /// Only tell what is missing; exit code 1 if something is.
    #[arg(long)]
    check: bool,
    /// Leave out what only the tests need.
    #[arg(long)]
    build_only: bool,
}

/// Something that is there or can be installed.
trait Item {
    /// What it is.
    fn name(&self) -> String;
    /// What is there, such as a version; `None` where it is missing or does not run.
    fn present(&self) -> Option<String>;
    /// Installs it.
    fn install(&self) -> Result<()>;
}

/// Runs the task.
pub fn main(args: &Args) -> Result<()> {
    let items = if args.build_only { for_building() } else { all() };
    if args.check { check(&items) } else { install(&items) }
}

/// Installs what building needs.
pub fn prepare_build() -> Result<()> {
    install(&for_building())
}

/// Installs everything.
pub fn prepare_tests() -> Result<()> {
    install(&all())
}

/// Installs what only the benchmark needs: the peer, and Go programs and allocators to trace.
pub fn prepare_bench() -> Result<()> {
    let newest = go::PYPI_VERSIONS
        .into_iter()
        .next_back()
        .map(|version| Box::new(go::PypiGo(version)) as Box<dyn Item>);
    let mut items: Vec<Box<dyn Item>> =
        vec![Box::new(bpftrace::Bpftrace), Box::new(go::DebianGo), Box::new(allocators::Libraries)];
    items.extend(newest);
    install(&items)
}

/// Installs what only the tests on other kernels need, beside what building does.
pub fn prepare_kernels() -> Result<()> {
    let mut items = for_building();
    items.push(Box::new(go::PypiGo(go::NEWEST)));
    items.extend(for_kernels());
    install(&items)
}

fn for_kernels() -> Vec<Box<dyn Item>> {
    let mut items: Vec<Box<dyn Item>> =
        vec![Box::new(kernel::Qemu), Box::new(kernel::Cpio), Box::new(kernel::Busybox)];
    items.extend(kernel::SERIES.map(|series| Box::new(kernel::Kernel(series)) as Box<dyn Item>));
    items
}

/// Installs the peer that the benchmark can do without: what prevents it is said, and is not an error.
pub fn prepare_bcc() {
    if install(&[Box::new(bcc::Bcc) as Box<dyn Item>]).is_err() {
        eprintln!("bcc is left out of the comparison");
    }
}

/// Where an allocator's library is, by its file's name.
pub fn allocator_library(name: &str) -> Option<PathBuf> {
    allocators::library(name)
}

/// bcc's version; `None` where it is not set up.
pub fn bcc_version() -> Option<String> {
    bcc::Bcc.present()
}

fn for_building() -> Vec<Box<dyn Item>> {
    vec![Box::new(bpf::Toolchain), Box::new(bpf::Linker)]
}

fn all() -> Vec<Box<dyn Item>> {
    let mut items = for_building();
    items.push(Box::new(bpf::Clippy));
    items.push(Box::new(miri::Miri));
    items.push(Box::new(go::DebianGo));
    items.extend(go::PYPI_VERSIONS.map(|version| Box::new(go::PypiGo(version)) as Box<dyn Item>));
    items.extend(go_programs::PROGRAMS.map(|program| Box::new(program) as Box<dyn Item>));
    items.push(Box::new(prometheus::Prometheus));
    items.extend(allocators::items());
    items.push(Box::new(cross::Cross));
    items.extend(for_kernels());
    items
}

fn check(items: &[Box<dyn Item>]) -> Result<()> {
    let mut missing = Vec::new();
    for item in items {
        match item.present() {
            Some(what) => eprintln!("present     {}: {what}", item.name()),
            None => {
                eprintln!("missing     {}", item.name());
                missing.push(item.name());
            }
        }
    }
    if !missing.is_empty() {
        bail!("missing: {}; run `cargo xtask setup`", missing.join(", "));
    }
    Ok(())
}

/// Goes on after a failure, so that one run tells everything that is wrong.
fn install(items: &[Box<dyn Item>]) -> Result<()> {
    let mut failed = Vec::new();
    for item in items {
        if let Some(what) = item.present() {
            eprintln!("present     {}: {what}", item.name());
        } else if let Err(error) = install_one(item.as_ref()) {
            eprintln!("failed      {}: {error:#}", item.name());
            failed.push(item.name());
        }
    }
    if !failed.is_empty() {
        bail!("set-up is not complete: {} could not be installed", failed.join(", "));
    }
    Ok(())
}

fn install_one(item: &dyn Item) -> Result<()> {
    let start = Instant::now();
    eprintln!("installing  {}", item.name());
    item.install()?;
    let Some(what) = item.present() else {
        bail!("it was installed and is still not found");
    };
    eprintln!("installed   {}: {what}, in {:.0} s", item.name(), start.elapsed().as_secs_f64());
    Ok(())
}
