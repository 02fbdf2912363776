//! What disassemblers print into instructions: the other opinion on where probe sites are.

use allocscope::site::arm64::instruction::Next;
use allocscope_common::site_id::StepClass;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One instruction as a disassembler has it.
#[derive(Debug)]
pub struct Line {
    pub address: u64,
    pub encoding: u32,
    /// The mnemonic and the operands.
    pub words: Vec<String>,
}

impl Line {
    pub fn mnemonic(&self) -> &str {
        &self.words[0]
    }

    /// `source.go:1 0x273e0 f9400b90 MOVD 16(R28), R16`
    fn of_go(text: &str) -> Option<Self> {
        let [_, address, encoding, words @ ..] = &text.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        Self::new(address.strip_prefix("0x")?, encoding, words)
    }

    /// `  400730: d503245f  bti c`
    fn of_binutils(text: &str) -> Option<Self> {
        let [address, encoding, words @ ..] = &text.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        Self::new(address.strip_suffix(':')?, encoding, words)
    }

    fn new(address: &str, encoding: &str, words: &[&str]) -> Option<Self> {
        let address = u64::from_str_radix(address, 16).ok()?;
        let encoding = u32::from_str_radix(encoding, 16).ok().filter(|_| encoding.len() == 8)?;
        let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
        (!words.is_empty()).then_some(Self { address, encoding, words })
    }
}

/// A function as `go tool objdump` of a toolchain prints it; its start is checked with `go tool nm`.
pub fn go_function(version: &str, program: &Path, name: &str) -> Vec<Line> {
    let go = tools().join("go").join(version).join("bin/go");
    let pattern = name.replace('(', "\\(").replace(')', "\\)").replace('*', "\\*");
    let mut objdump = Command::new(&go);
    let text = output(objdump.args(["tool", "objdump", "-s", &format!("^{pattern}$")]).arg(program));
    let lines: Vec<_> = text.lines().filter_map(Line::of_go).collect();
    let symbols = output(Command::new(&go).args(["tool", "nm"]).arg(program));
    let symbol = symbols.lines().find(|line| line.ends_with(&format!(" T {name}"))).unwrap();
    let start = u64::from_str_radix(symbol.split_whitespace().next().unwrap(), 16).unwrap();
    assert_eq!(lines[0].address, start, "{name} in {}", program.display());
    lines
}

/// A function as GNU's objdump prints it.
pub fn c_function(program: &Path, name: &str) -> Vec<Line> {
    let mut objdump = cross("objdump");
    let text = output(objdump.args(["-d", &format!("--disassemble={name}")]).arg(program));
    let lines: Vec<_> = text.lines().filter_map(Line::of_binutils).collect();
    assert!(!lines.is_empty(), "{text}");
    lines
}

/// All code of a file.
pub fn disassembly(file: &Path) -> Vec<Line> {
    output(cross("objdump").arg("-d").arg(file)).lines().filter_map(Line::of_binutils).collect()
}

/// Where control goes, by the name.
pub fn next(line: &Line) -> Next {
    let target = || number(line.words.iter().skip(1).rev().find(|word| is_number(word)).unwrap());
    let distance = || target() - line.address as i64;
    match line.mnemonic() {
        "b" => Next::Jumps(distance()),
        "bl" => Next::Calls(Some(distance())),
        "blr" => Next::Calls(None),
        "ret" if line.words.len() == 1 => Next::Returns,
        "br" | "ret" => Next::JumpsAnywhere,
        "brk" | "hlt" => Next::Traps,
        "cbz" | "cbnz" | "tbz" | "tbnz" => Next::Branches(distance()),
        name if name.starts_with("b.") => Next::Branches(distance()),
        _ => Next::Falls,
    }
}

/// What the kernel does under a probe, by the name (arch/arm64/kernel/probes/decode-insn.c).
pub fn step(line: &Line) -> Option<StepClass> {
    const REFUSED: [&str; 9] = ["udf", "svc", "brk", "hlt", "msr", "yield", "wfe", "autiasp", "hint"];
    const EXCLUSIVE: [&str; 8] = ["ldxr", "ldaxr", "stxr", "stlxr", "ldxp", "ldaxp", "stxp", "stlxp"];
    let name = line.mnemonic();
    let is_literal = matches!(name, "ldr" | "ldrsw" | "prfm") && is_number(&line.words[2]);
    if REFUSED.contains(&name) || EXCLUSIVE.iter().any(|exclusive| name.starts_with(exclusive)) || is_literal
    {
        return None;
    }
    let is_simulated = next(line) != Next::Falls || matches!(name, "adr" | "adrp" | "nop");
    Some(if is_simulated { StepClass::Emulated } else { StepClass::Stepped })
}

/// What happens to the stack pointer, by the operands.
pub fn depth_change(line: &Line) -> Option<i64> {
    let operands = line.words[1..].join(" ");
    let operands = operands.split(" //").next().unwrap();
    let offset =
        |text: &str| text.trim_end_matches("]!").strip_prefix('#').and_then(|text| text.parse::<i64>().ok());
    if let Some((_, moved)) = operands.split_once("[sp, ").filter(|_| operands.ends_with("]!")) {
        return Some(-offset(moved).unwrap());
    }
    if let Some((_, moved)) = operands.split_once("[sp], ") {
        return Some(-offset(moved).unwrap());
    }
    let constant = || operands.strip_prefix("sp, sp, #").map(shifted);
    match line.mnemonic() {
        "sub" if operands.starts_with("sp,") => constant(),
        "add" if operands.starts_with("sp,") => constant().map(|bytes| -bytes),
        "mov" | "and" if operands.starts_with("sp,") && operands != "sp, sp" => None,
        _ => Some(0),
    }
}

/// `0x1, lsl #12`
fn shifted(text: &str) -> i64 {
    let (value, shift) = text.split_once(", lsl #").unwrap_or((text, "0"));
    number(value) << shift.trim().parse::<u32>().unwrap()
}

/// Whether it is an address as objdump prints them: hexadecimal without more.
fn is_number(word: &str) -> bool {
    word.len() >= 4 && word.chars().all(|c| c.is_ascii_hexdigit())
}

fn number(text: &str) -> i64 {
    i64::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap()
}

/// The same of a function that a library exports.
pub fn exported_function(library: &Path, name: &str) -> Vec<Line> {
    let symbols = output(cross("objdump").arg("-T").arg(library));
    // Address, flags, kind, section, size, version, name.
    let symbol = symbols.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let symbol = symbol.into_iter().find(|words| words.last() == Some(&name)).unwrap();
    let number = |text| u64::from_str_radix(text, 16).unwrap();
    let (start, size) = (number(symbol[0]), number(symbol[symbol.len() - 3]));
    let mut objdump = cross("objdump");
    objdump.arg("-d").arg(format!("--start-address={start}")).arg(format!("--stop-address={}", start + size));
    let lines: Vec<_> = output(objdump.arg(library)).lines().filter_map(Line::of_binutils).collect();
    assert_eq!((lines[0].address, lines.len() as u64 * 4), (start, size), "{name}");
    lines
}

/// A tool for AArch64 of those that `cargo xtask setup` unpacks.
pub fn cross(tool: &str) -> Command {
    let place = tools().join("arm64/usr");
    let path = place.join("bin").join(format!("aarch64-linux-gnu-{tool}"));
    assert!(path.is_file(), "{} is missing: run `cargo xtask setup`", path.display());
    let mut command = Command::new(path);
    command.env("LD_LIBRARY_PATH", place.join("lib/x86_64-linux-gnu"));
    command
}

/// What a command prints, which has to succeed.
pub fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Where `cargo xtask setup` puts tools.
pub fn tools() -> PathBuf {
    let default = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools");
    std::env::var_os("ALLOCSCOPE_TOOLS").map_or_else(default, PathBuf::from)
}
