//! A program of the object, loaded for attach types that aya 0.14 does not know, and its links.
//!
//! aya loads the object and owns the maps; here the same object is parsed again, bound to those maps and
//! handed to the kernel with an attach type of its own: uprobe_multi (kernel 6.6: one link for all sites of a
//! file) and uprobe session (6.13: one program at both ends of a call). aya 0.15 knows the first, not the
//! second, and needs a newer compiler; then this file can go.

use anyhow::{Context, Result, anyhow};
use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya_obj::Object;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_type};
use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What a program is loaded and linked for (linux/bpf.h, `enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachType {
    /// BPF_TRACE_UPROBE_MULTI
    Multi = 48,
    /// BPF_TRACE_UPROBE_SESSION
    Session = 57,
}

/// BPF_F_UPROBE_MULTI_RETURN: the program runs at returns.
const RETURN: u32 = 1;

/// Of a verifier's log that is told.
const VERIFIER_LOG_BYTES: usize = 1 << 20;

/// `union bpf_attr`, its part for BPF_LINK_CREATE of uprobe_multi (linux/bpf.h).
#[repr(C)]
struct UprobeMulti {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    ref_ctr_offsets: u64,
    cookies: u64,
    count: u32,
    multi_flags: u32,
    pid: u32,
    unused: u32,
}

/// The object and the maps that its programs use.
pub struct RawObject {
    object: Object,
    btf: Option<OwnedFd>,
}

impl RawObject {
    /// Parses `bytes`, of which `ebpf` was loaded, again and binds it to the same maps.
    ///
    /// # Errors
    /// Where the object does not parse, or the kernel refuses its type information.
    pub fn bind(bytes: &[u8], ebpf: &Ebpf) -> Result<Self> {
        let mut object = Object::parse(bytes)?;
        let features = aya::features();
        let btf = match features.btf() {
            Some(known) => object.fixup_and_sanitize_btf(known)?.map(|btf| load_btf(&btf.to_bytes())),
            None => None,
        };
        let btf = btf.transpose().context("the kernel refuses the programs' type information")?;
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let known = object.maps.clone();
        let maps = ebpf
            .maps()
            .filter_map(|(name, map)| Some((name, data_of(map)?.fd().as_fd().as_raw_fd(), known.get(name)?)));
        object.relocate_maps(maps, &sections)?;
        object.relocate_calls(&sections)?;
        object.sanitize_functions(features);
        Ok(Self { object, btf })
    }

    /// Loads a uprobe program.
    ///
    /// # Errors
    /// What the kernel says; EINVAL where it does not know the attach type.
    pub fn load(&self, name: &str, attach_type: AttachType) -> Result<OwnedFd> {
        let program =
            self.object.programs.get(name).ok_or_else(|| anyhow!("the object has no program {name}"))?;
        let function =
            self.object.functions.get(&program.function_key()).context("a program without its code")?;
        let functions = function.func_info.func_info_bytes();
        // SAFETY: a union of plain integers, for which zero is a value.
        let mut attr: bpf_attr = unsafe { zeroed() };
        // SAFETY: the part of the union that BPF_PROG_LOAD reads.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
        load.expected_attach_type = attach_type as u32;
        load.insns = function.instructions.as_ptr() as u64;
        load.insn_cnt = u32::try_from(function.instructions.len())?;
        load.license = program.license.as_ptr() as u64;
        for (to, from) in load.prog_name.iter_mut().zip(name.bytes().take(15)) {
            *to = from as _;
        }
        if let Some(btf) = &self.btf {
            load.prog_btf_fd = btf.as_raw_fd() as u32;
            load.func_info = functions.as_ptr() as u64;
            load.func_info_cnt = u32::try_from(function.func_info.len())?;
            load.func_info_rec_size = u32::try_from(function.func_info_rec_size)?;
        }
        // SAFETY: everything the attribute points to outlives the call.
        unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, (&raw const attr).cast(), size_of::<bpf_attr>()) }
            .inspect_err(|_| tell_verifier_log(attr))
            .with_context(|| format!("the kernel refuses program {name} as {attach_type:?}"))
    }
}

/// The points of one file that a link attaches to.
#[derive(Debug, Default)]
pub struct Points {
    /// Offsets in the file.
    pub offsets: Vec<u64>,
    /// What the program is told at each of them.
    pub cookies: Vec<u64>,
    /// Offsets of the counters that the kernel raises while they are attached to, 0 for none; empty where there are
    /// none at all.
    pub counters: Vec<u64>,
}

impl Points {
    /// One more point.
    pub fn push(&mut self, offset: u64, cookie: u64) {
        self.offsets.push(offset);
        self.cookies.push(cookie);
    }
}

/// Attaches `program` to `points` in `file`, in one process or, where `pid` is 0, in every one, now and later.
/// Dropping the link detaches all.
///
/// # Errors
/// What the kernel says.
pub fn link(
    program: BorrowedFd<'_>,
    attach_type: AttachType,
    at_return: bool,
    file: &File,
    points: &Points,
    pid: u32,
) -> io::Result<OwnedFd> {
    let mut count = points.offsets.len().min(points.cookies.len()) as u32;
    if !points.counters.is_empty() {
        count = count.min(points.counters.len() as u32);
    }
    // Through the open descriptor: the very file that was examined, whatever its path now leads to.
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let attr = UprobeMulti {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: 0,
        attach_type: attach_type as u32,
        flags: 0,
        path: path.as_ptr() as u64,
        offsets: points.offsets.as_ptr() as u64,
        ref_ctr_offsets: if points.counters.is_empty() { 0 } else { points.counters.as_ptr() as u64 },
        cookies: points.cookies.as_ptr() as u64,
        count,
        multi_flags: if at_return { RETURN } else { 0 },
        pid,
        unused: 0,
    };
    // SAFETY: everything the attribute points to outlives the call.
    unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, (&raw const attr).cast(), size_of::<UprobeMulti>()) }
}

/// Loads once more for the verifier's log, if anyone reads it: writing it takes longer than verifying.
fn tell_verifier_log(mut attr: bpf_attr) {
    if !log::log_enabled!(log::Level::Debug) {
        return;
    }
    let mut text = vec![0u8; VERIFIER_LOG_BYTES];
    // SAFETY: the part of the union that BPF_PROG_LOAD reads.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.log_level = 1;
    load.log_buf = text.as_mut_ptr() as u64;
    load.log_size = VERIFIER_LOG_BYTES as u32;
    // SAFETY: as for the first attempt; the log outlives the call.
    let _ = unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, (&raw const attr).cast(), size_of::<bpf_attr>()) };
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    log::debug!("{}", String::from_utf8_lossy(text.get(..end).unwrap_or_default()));
}

fn load_btf(bytes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: a union of plain integers, for which zero is a value.
    let mut attr: bpf_attr = unsafe { zeroed() };
    // SAFETY: the part of the union that BPF_BTF_LOAD reads.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = bytes.as_ptr() as u64;
    load.btf_size = bytes.len() as u32;
    // SAFETY: as above; `bytes` outlives the call.
    unsafe { bpf(bpf_cmd::BPF_BTF_LOAD, (&raw const attr).cast(), size_of::<bpf_attr>()) }
}

/// A `bpf` command that returns a new descriptor.
///
/// # Safety
/// `attr` points to `size` bytes that the command may read, and what they point to is live.
unsafe fn bpf(command: bpf_cmd, attr: *const libc::c_void, size: usize) -> io::Result<OwnedFd> {
    // SAFETY: by the caller's word; the result is checked.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command as u32, attr, size) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// What aya holds of a map, whichever of the types that are used here it has.
pub fn data_of(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::Queue(data)
        | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}
