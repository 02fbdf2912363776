//! A command into a process that is stopped before its first instruction, and then led, step by step, past
//! its dynamic linker, so that what it loads can be looked at before any of that code runs.

use crate::config::RunConfig;
use anyhow::{Context, Error, Result};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};

/// A dynamic linker makes a few system calls for each library; a program that makes so many before its entry
/// is let go as it is.
const MAX_STEPS: usize = 100_000;

/// include/uapi/asm-generic/mman-common.h
#[cfg(target_arch = "x86_64")]
const PROT_EXEC: u64 = 4;
/// include/uapi/linux/auxvec.h
#[cfg(target_arch = "x86_64")]
const AT_ENTRY: u64 = 9;
/// INT3
#[cfg(target_arch = "x86_64")]
const BREAKPOINT: i64 = 0xcc;

/// Why there is no process.
pub enum NotStarted {
    /// It could not be executed.
    Spawn(io::Error),
    /// It did not stop.
    Stop(Error),
}

/// The command, stopped by the kernel between its exec and its first instruction.
///
/// Only the thread that started it may let it go; the runtime has one thread, so that is given.
pub struct Stopped {
    child: Child,
    going: bool,
    ended: Option<ExitStatus>,
}

impl Stopped {
    /// Starts the command.
    ///
    /// # Errors
    /// Where it cannot be executed, or does not stop.
    pub fn start(config: &RunConfig) -> Result<Self, NotStarted> {
        let mut command = Command::new(&config.program);
        command.args(&config.arguments).envs(config.environment.iter().map(|(name, value)| (name, value)));
        // SAFETY: between fork and exec only a system call is made.
        unsafe { command.pre_exec(|| ptrace::traceme().map_err(io::Error::from)) };
        let child = command.spawn().map_err(NotStarted::Spawn)?;
        let stopped = Self { child, going: false, ended: None };
        match waitpid(stopped.id(), Some(WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Stopped(..)) => Ok(stopped),
            status => {
                Err(NotStarted::Stop(anyhow::anyhow!("the command did not stop at its exec: {status:?}")))
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go. `mapped` is called, while it is stopped, whenever it has mapped code from a file before its
    /// own entry is reached.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn go(&mut self, mapped: impl FnMut()) -> Result<()> {
        self.ended = lead_to_entry(self.id(), mapped).context("the command cannot be led to its entry")?;
        if self.ended.is_none() {
            ptrace::detach(self.id(), None).context("the command cannot be let go")?;
        }
        self.going = true;
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        match self.ended {
            Some(status) => Ok(status),
            None => self.child.wait(),
        }
    }

    fn id(&self) -> Pid {
        Pid::from_raw(self.pid() as i32)
    }
}

impl Drop for Stopped {
    /// A command that was never let go has run nothing: it is ended, not left behind.
    fn drop(&mut self) {
        if !self.going {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs the process from system call to system call until a breakpoint at its entry is hit, and takes that out
/// again. Returns how the process ended, where it did so on the way.
#[cfg(target_arch = "x86_64")]
fn lead_to_entry(pid: Pid, mut mapped: impl FnMut()) -> Result<Option<ExitStatus>> {
    let Some(breakpoint) = Breakpoint::at_entry(pid)? else { return Ok(None) };
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD)?;
    let mut signal = None;
    let mut entering = false;
    for _ in 0..MAX_STEPS {
        ptrace::syscall(pid, signal.take())?;
        match waitpid(pid, None)? {
            WaitStatus::PtraceSyscall(_) => {
                entering = !entering;
                if !entering && has_mapped_code(pid)? {
                    mapped();
                }
            }
            WaitStatus::Stopped(_, Signal::SIGTRAP) if breakpoint.is_hit()? => {
                breakpoint.step_back()?;
                mapped();
                return Ok(None);
            }
            // Its own signals go on to it.
            WaitStatus::Stopped(_, own) => signal = Some(own),
            // Statuses as wait(2) encodes them. A library was missing, for example.
            WaitStatus::Exited(_, code) => return Ok(Some(ExitStatus::from_raw(code << 8))),
            WaitStatus::Signaled(_, killer, _) => return Ok(Some(ExitStatus::from_raw(killer as i32))),
            _ => {}
        }
    }
    breakpoint.remove()?;
    Ok(None)
}

#[cfg(not(target_arch = "x86_64"))]
fn lead_to_entry(_pid: Pid, _mapped: impl FnMut()) -> Result<Option<ExitStatus>> {
    Ok(None)
}

/// Whether the system call that a process stopped behind was an `mmap` of code from a file.
#[cfg(target_arch = "x86_64")]
fn has_mapped_code(pid: Pid) -> Result<bool> {
    let registers = ptrace::getregs(pid)?;
    let is_mmap = registers.orig_rax == libc::SYS_mmap as u64;
    let anonymous = registers.r10 & libc::MAP_ANONYMOUS as u64 != 0;
    Ok(is_mmap && registers.rdx & PROT_EXEC != 0 && !anonymous)
}

/// An instruction of a stopped process that is replaced by a trap.
#[cfg(target_arch = "x86_64")]
struct Breakpoint {
    pid: Pid,
    address: u64,
    word: i64,
}

#[cfg(target_arch = "x86_64")]
impl Breakpoint {
    /// At the entry of the program, which its dynamic linker jumps to when all is loaded; `None` where the
    /// kernel does not tell it.
    fn at_entry(pid: Pid) -> Result<Option<Self>> {
        let process = procfs::process::Process::new(pid.as_raw())?;
        let Some(&address) = process.auxv()?.get(&AT_ENTRY) else { return Ok(None) };
        let word = ptrace::read(pid, address as ptrace::AddressType)?;
        let breakpoint = Self { pid, address, word };
        breakpoint.write(word & !0xff | BREAKPOINT)?;
        Ok(Some(breakpoint))
    }

    fn write(&self, word: i64) -> Result<()> {
        Ok(ptrace::write(self.pid, self.address as ptrace::AddressType, word)?)
    }

    fn is_hit(&self) -> Result<bool> {
        Ok(ptrace::getregs(self.pid)?.rip == self.address + 1)
    }

    fn remove(&self) -> Result<()> {
        self.write(self.word)
    }

    /// As if it had never been there.
    fn step_back(&self) -> Result<()> {
        self.remove()?;
        let mut registers = ptrace::getregs(self.pid)?;
        registers.rip = self.address;
        Ok(ptrace::setregs(self.pid, registers)?)
    }
}
