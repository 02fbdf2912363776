//! Go's runtime beside the large-object path into probe sites: what a large allocation's time goes to, and, where
//! asked for, what the collector and `sync.Pool` do.
//!
//! No small allocation passes a place of the first kind but one that is slow anyway: it pays an assist's debt, makes
//! the heap grow, or sweeps 4 MiB of pages for its own.

use allocscope_common::site_id::{Function, Role};
use iced_x86::Register;

use super::functions::{FunctionCode, Functions};
use super::version::GoVersion;
use super::{ALLOC_LARGE, MALLOC, MALLOC_LARGE, MALLOC_LARGE_MINOR, miss};
use crate::allocator::elf::Machine;
use crate::site::go::Refusal;
use crate::site::go::marks::Marks;
use crate::site::{Miss, Site};

const THROW: &str = "runtime.throw";
const ASSIST: &str = "runtime.gcAssistAlloc";
/// Since 1.20; before, `mallocgc` calls the assist itself.
const DEDUCT: &str = "runtime.deductAssistCredit";
const DEDUCT_MINOR: u16 = 20;
const ALLOC_SPAN: &str = "runtime.(*mheap).allocSpan";
const GROW: &str = "runtime.(*mheap).grow";
const RECLAIM: &str = "runtime.(*mheap).reclaim";
const RECLAIM_CHUNK: &str = "runtime.(*mheap).reclaimChunk";
const STOP: &str = "runtime.stopTheWorldWithSema";
const RESTART: &str = "runtime.startTheWorldWithSema";
const SWEEP: &str = "runtime.deductSweepCredit";
const HEAP_ALLOC: &str = "runtime.(*mheap).alloc";
const CYCLE: &str = "runtime.gcMarkTermination";
/// Since 1.19; before, there is one function for all systems.
const SCAVENGE: &str = "runtime.sysUnusedOS";
const SCAVENGE_MINOR: u16 = 19;
const SCAVENGE_BEFORE: &str = "runtime.sysUnused";
const POOL_GET: &str = "sync.(*Pool).Get";
const POOL_SLOW: &str = "sync.(*Pool).getSlow";
const POOL_CLEANUP: &str = "sync.poolCleanup";

/// What an assist does: behind the last of these it returns.
const ASSIST_WORK: [&str; 5] = [
    "runtime.systemstack",
    "runtime.systemstack.abi0",
    "runtime.gcMarkDone",
    "runtime.gcParkAssist",
    "runtime.mcall",
];

/// In place of an argument: the stop's reason is in rax, since 1.21.
const REASON_KNOWN: u16 = 1;
const REASON_MINOR: u16 = 21;

/// Places in Go's runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimePlan {
    /// What a large allocation's time goes to.
    pub causes: Vec<Site>,
    /// What the runtime does.
    pub runtime: Vec<Site>,
    /// `sync.Pool.Get`, probed in short windows only.
    pub sampled: Vec<Site>,
    /// What of the causes is not seen.
    pub cause_misses: Vec<Miss>,
    /// What the runtime does that is not seen.
    pub runtime_misses: Vec<Miss>,
}

impl RuntimePlan {
    /// Each place stands for itself: one that is not found leaves the others.
    pub fn of(functions: &Functions<'_>, version: &GoVersion) -> Self {
        let mut plan = Self::default();
        if functions.machine() != Machine::X86_64 {
            let detail = "the places of Go's runtime are known on x86-64 only";
            plan.cause_misses.push(miss("go_runtime_not_probed", detail));
            return plan;
        }
        let places = Places { functions, version };
        let causes = [places.assist(), places.grow(), places.reclaim(), places.stop()];
        let runtime = [
            places.assist_end(),
            places.sweep(),
            places.cycle(),
            places.scavenge(),
            places.pool_slow(),
            places.pool_new(),
            places.pool_cleanup(),
        ];
        causes.into_iter().for_each(|found| keep(found, &mut plan.causes, &mut plan.cause_misses));
        runtime.into_iter().for_each(|found| keep(found, &mut plan.runtime, &mut plan.runtime_misses));
        keep(places.pool_get(), &mut plan.sampled, &mut plan.runtime_misses);
        plan
    }
}

fn keep(found: Result<Vec<Site>, Miss>, sites: &mut Vec<Site>, misses: &mut Vec<Miss>) {
    match found {
        Ok(found) => sites.extend(found),
        Err(miss) => misses.push(miss),
    }
}

struct Places<'f, 'i> {
    functions: &'f Functions<'i>,
    version: &'f GoVersion,
}

impl Places<'_, '_> {
    /// Calls `find` on the places of a function.
    fn within<T>(
        &self,
        symbol: &'static str,
        find: impl FnOnce(&Marks<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Miss> {
        let throw = self.functions.start(THROW)?;
        let code: FunctionCode = self.functions.code(Function::GoRuntime, symbol)?;
        let found = Marks::of(code.as_code(), throw).and_then(|marks| find(&marks));
        found.map_err(|refusal| miss("go_runtime_not_probed", format!("{symbol} is not probed: {refusal}")))
    }

    /// Below the entry of `mallocgc`, which the assist is for: through `deductAssistCredit` where there is one.
    fn assist(&self) -> Result<Vec<Site>, Miss> {
        let assist = self.functions.start(ASSIST)?;
        let above = if self.version.minor >= DEDUCT_MINOR {
            let deduct = self.functions.start(DEDUCT)?;
            let inner = self.within(DEDUCT, |marks| marks.depth_of_call(assist))?;
            self.within(MALLOC, |marks| marks.depth_of_call(deduct))?.saturating_add(inner)
        } else {
            self.within(MALLOC, |marks| marks.depth_of_call(assist))?
        };
        self.within(ASSIST, |marks| marks.beginning_below(Role::Assist, above)).map(|site| vec![site])
    }

    fn assist_end(&self) -> Result<Vec<Site>, Miss> {
        // One that is not called there (or inlined) leaves the others.
        let work: Vec<_> = ASSIST_WORK.iter().filter_map(|name| self.functions.start(name).ok()).collect();
        self.within(ASSIST, |marks| marks.last_of(Role::AssistEnd, &work))
    }

    fn grow(&self) -> Result<Vec<Site>, Miss> {
        let grow = self.functions.start(GROW)?;
        let curg = self.version.curg_offset();
        self.within(ALLOC_SPAN, |marks| marks.around_call(grow, [Role::Grow, Role::Grown], curg))
            .map(Vec::from)
    }

    fn reclaim(&self) -> Result<Vec<Site>, Miss> {
        let chunk = self.functions.start(RECLAIM_CHUNK)?;
        let curg = self.version.curg_offset();
        let roles = [Role::Reclaim, Role::Reclaimed];
        self.within(RECLAIM, |marks| marks.around_call(chunk, roles, curg)).map(Vec::from)
    }

    fn stop(&self) -> Result<Vec<Site>, Miss> {
        let curg = self.version.curg_offset();
        let argument = if self.version.minor >= REASON_MINOR { curg | REASON_KNOWN } else { curg };
        let [begin, stopped] = self.within(STOP, |marks| {
            Ok([
                marks.beginning(Role::StopBegin, argument, &[Register::RAX])?,
                marks.end(Role::Stopped, curg)?,
            ])
        })?;
        let [restart, started] = self.within(RESTART, |marks| {
            Ok([marks.beginning(Role::Restart, curg, &[])?, marks.end(Role::Started, curg)?])
        })?;
        Ok(vec![begin, stopped, restart, started])
    }

    /// In the function for large objects alone.
    fn sweep(&self) -> Result<Vec<Site>, Miss> {
        let sweep = self.functions.start(SWEEP)?;
        let alloc = self.functions.start(HEAP_ALLOC)?;
        self.within(ALLOC_LARGE, |marks| {
            Ok(vec![marks.call(sweep, Role::Sweep)?, marks.call(alloc, Role::Swept)?])
        })
    }

    fn cycle(&self) -> Result<Vec<Site>, Miss> {
        self.within(CYCLE, |marks| marks.beginning(Role::Cycle, 0, &[])).map(|site| vec![site])
    }

    fn scavenge(&self) -> Result<Vec<Site>, Miss> {
        let symbol = if self.version.minor >= SCAVENGE_MINOR { SCAVENGE } else { SCAVENGE_BEFORE };
        self.within(symbol, |marks| marks.beginning(Role::Scavenge, 0, &[Register::RBX]))
            .map(|site| vec![site])
    }

    fn pool_slow(&self) -> Result<Vec<Site>, Miss> {
        self.of_pool(POOL_SLOW, |marks| marks.beginning(Role::PoolSlowGet, 0, &[]))
    }

    fn pool_new(&self) -> Result<Vec<Site>, Miss> {
        self.of_pool(POOL_GET, |marks| marks.before_indirect_call(Role::PoolNew))
    }

    fn pool_cleanup(&self) -> Result<Vec<Site>, Miss> {
        self.of_pool(POOL_CLEANUP, |marks| marks.before_last_loop(Role::PoolCleanup, Register::RCX))
    }

    fn pool_get(&self) -> Result<Vec<Site>, Miss> {
        self.of_pool(POOL_GET, |marks| marks.beginning(Role::PoolGet, 0, &[]))
    }

    /// A program without pools has none of their functions.
    fn of_pool(
        &self,
        symbol: &'static str,
        find: impl FnOnce(&Marks<'_>) -> Result<Site, Refusal>,
    ) -> Result<Vec<Site>, Miss> {
        if self.functions.start(symbol).is_err() {
            return Ok(Vec::new());
        }
        self.within(symbol, find).map(|site| vec![site])
    }
}

/// How far the entry of `mallocgc` is above the entry that a large call is named by: 0 where that is not known, and
/// then no assist is taken for its.
pub fn malloc_above(functions: &Functions<'_>, version: &GoVersion) -> u16 {
    let places = Places { functions, version };
    let depth_of_call = |callee| {
        let callee = functions.start(callee).ok()?;
        places.within(MALLOC, |marks| marks.depth_of_call(callee)).ok()
    };
    let depth = if version.minor >= MALLOC_LARGE_MINOR {
        depth_of_call(MALLOC_LARGE)
    } else {
        // Named by the stack pointer at the call, without the return address.
        depth_of_call(ALLOC_LARGE).and_then(|depth| depth.checked_sub(8))
    };
    depth.and_then(|depth| u16::try_from(depth).ok()).unwrap_or(0)
}
