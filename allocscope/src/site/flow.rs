//! Decoded instructions into a flow graph with the stack depth at each of them.

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::decode::Function;

/// Why a function's ways in and out are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowError {
    /// A jump to an address that only the running program knows.
    IndirectJump,
    /// A jump off an instruction boundary or out of the function: its returns are not all its exits.
    LeavesByJump,
    /// Control runs over the end of the function.
    RunsOffEnd,
}

/// Successors of each instruction, by index.
pub struct Flow {
    successors: Vec<Vec<usize>>,
    returns: Vec<usize>,
}

impl Flow {
    /// A graph of known edges: the successors of each instruction, and which ones return.
    pub fn new(successors: Vec<Vec<usize>>, returns: Vec<usize>) -> Self {
        Self { successors, returns }
    }

    /// Builds the graph. A call is taken to return, since whether it does is not in the bytes: that
    /// adds ways through the function and never hides one.
    pub fn build(function: &Function<'_>) -> Result<Self, FlowError> {
        let instructions = function.instructions();
        let mut successors = Vec::with_capacity(instructions.len());
        let mut returns = Vec::new();
        for (index, instruction) in instructions.iter().enumerate() {
            let next = (index + 1 < instructions.len()).then_some(index + 1);
            let target = || {
                let near = matches!(instruction.op0_kind(), OpKind::NearBranch64);
                near.then(|| function.index_of(instruction.near_branch64())).flatten()
            };
            successors.push(match instruction.flow_control() {
                FlowControl::Return => {
                    returns.push(index);
                    Vec::new()
                }
                FlowControl::Exception | FlowControl::Interrupt => Vec::new(),
                // A call in last place is one that does not return.
                FlowControl::Call | FlowControl::IndirectCall => next.into_iter().collect(),
                FlowControl::UnconditionalBranch => vec![target().ok_or(FlowError::LeavesByJump)?],
                FlowControl::ConditionalBranch => {
                    vec![next.ok_or(FlowError::RunsOffEnd)?, target().ok_or(FlowError::LeavesByJump)?]
                }
                FlowControl::Next => vec![next.ok_or(FlowError::RunsOffEnd)?],
                FlowControl::IndirectBranch | FlowControl::XbeginXabortXend => {
                    return Err(FlowError::IndirectJump);
                }
            });
        }
        Ok(Self { successors, returns })
    }

    /// The indices of the return instructions.
    pub fn returns(&self) -> &[usize] {
        &self.returns
    }

    /// Where control can go from `index`.
    pub fn successors(&self, index: usize) -> &[usize] {
        self.successors.get(index).map_or(&[], Vec::as_slice)
    }

    /// From where control can come to `index` directly.
    pub fn predecessors(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        self.successors.iter().enumerate().filter(move |(_, to)| to.contains(&index)).map(|(from, _)| from)
    }

    /// Removes the edges for which `infeasible(from, to)` holds.
    pub fn cut(&mut self, infeasible: impl Fn(usize, usize) -> bool) {
        for (from, targets) in self.successors.iter_mut().enumerate() {
            targets.retain(|&to| !infeasible(from, to));
        }
    }

    /// Which instructions can run after `from` has, passing over `without`.
    pub fn reachable(&self, from: usize, without: Option<usize>) -> Vec<bool> {
        let mut seen = vec![false; self.successors.len()];
        let mut work = self.successors(from).to_vec();
        while let Some(index) = work.pop() {
            if Some(index) == without || seen.get(index) != Some(&false) {
                continue;
            }
            if let Some(slot) = seen.get_mut(index) {
                *slot = true;
            }
            work.extend(self.successors(index));
        }
        seen
    }

    /// From which instructions control can come to one of `targets`, these included.
    pub fn reaching(&self, targets: &[usize]) -> Vec<bool> {
        let mut predecessors = vec![Vec::new(); self.successors.len()];
        for (from, list) in self.successors.iter().enumerate() {
            for &to in list {
                if let Some(slot) = predecessors.get_mut(to) {
                    slot.push(from);
                }
            }
        }
        let mut seen = vec![false; self.successors.len()];
        let mut work = targets.to_vec();
        while let Some(index) = work.pop() {
            if seen.get(index) != Some(&false) {
                continue;
            }
            if let Some(slot) = seen.get_mut(index) {
                *slot = true;
            }
            work.extend(predecessors.get(index).into_iter().flatten());
        }
        seen
    }

    /// Whether every way from the function's start to each of `targets` runs `index` first.
    pub fn dominates(&self, index: usize, targets: &[usize]) -> bool {
        let without = self.reachable(0, Some(index));
        index == 0 || targets.iter().all(|&target| target != 0 && without.get(target) == Some(&false))
    }

    /// Whether `index` can run twice in one call.
    pub fn is_in_loop(&self, index: usize) -> bool {
        self.reachable(index, None).get(index) != Some(&false)
    }
}

/// Bytes between the stack pointer at function entry and the one before each instruction.
pub struct StackDepth(Vec<Option<i64>>);

/// Two ways to an instruction that disagree on the depth, or a change of the stack pointer that is
/// not push, pop, or an addition of a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DepthError {
    /// The edge whose depth differs from one found earlier.
    Conflict {
        /// The instruction left.
        from: usize,
        /// The instruction entered.
        to: usize,
    },
    /// The instruction that changes the stack pointer in an unknown way.
    Unknown(usize),
}

impl StackDepth {
    /// Follows the stack pointer along all edges of `flow` from the function's start.
    pub fn compute(function: &Function<'_>, flow: &Flow) -> Result<Self, DepthError> {
        let change = |index| function.instructions().get(index).and_then(depth_change);
        Self::follow(flow, change)
    }

    /// The same where `change` tells how many bytes an instruction takes from the stack.
    pub fn follow(flow: &Flow, change: impl Fn(usize) -> Option<i64>) -> Result<Self, DepthError> {
        let mut depths: Vec<Option<i64>> = vec![None; flow.successors.len()];
        let mut work = vec![0usize];
        if let Some(first) = depths.first_mut() {
            *first = Some(0);
        }
        while let Some(from) = work.pop() {
            let Some(&Some(depth)) = depths.get(from) else { continue };
            let after = change(from).and_then(|change| depth.checked_add(change));
            let after = after.ok_or(DepthError::Unknown(from))?;
            for &to in flow.successors(from) {
                match depths.get_mut(to) {
                    Some(slot @ None) => {
                        *slot = Some(after);
                        work.push(to);
                    }
                    Some(Some(known)) if *known != after => return Err(DepthError::Conflict { from, to }),
                    _ => {}
                }
            }
        }
        Ok(Self(depths))
    }

    /// The depth in bytes before instruction `index`: `None` where control does not come.
    pub fn at(&self, index: usize) -> Option<i64> {
        *self.0.get(index)?
    }

    /// The depth in bytes behind instruction `index`.
    pub fn after(&self, function: &Function<'_>, index: usize) -> Option<i64> {
        self.at(index)?.checked_add(depth_change(function.instructions().get(index)?)?)
    }
}

/// How many bytes an instruction takes from the stack by the time the next one runs.
pub fn depth_change(instruction: &Instruction) -> Option<i64> {
    let moves_stack =
        instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::RSP;
    match instruction.mnemonic() {
        // The callee removes the return address.
        Mnemonic::Call | Mnemonic::Ret => Some(0),
        Mnemonic::Push | Mnemonic::Pop | Mnemonic::Pushfq | Mnemonic::Popfq if !moves_stack => {
            Some(-i64::from(instruction.stack_pointer_increment()))
        }
        Mnemonic::Sub if moves_stack => immediate(instruction),
        Mnemonic::Add if moves_stack => immediate(instruction)?.checked_neg(),
        Mnemonic::Lea if moves_stack && is_stack_slot(instruction) => {
            (instruction.memory_displacement64() as i64).checked_neg()
        }
        Mnemonic::Cmp | Mnemonic::Test => Some(0),
        _ if moves_stack || instruction.is_stack_instruction() => None,
        _ => Some(0),
    }
}

/// Whether the memory operand is `[rsp + constant]`.
pub fn is_stack_slot(instruction: &Instruction) -> bool {
    instruction.memory_base() == Register::RSP
        && instruction.memory_index() == Register::None
        && instruction.segment_prefix() == Register::None
}

fn immediate(instruction: &Instruction) -> Option<i64> {
    match instruction.code() {
        Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32 | Code::Add_rm64_imm8 | Code::Add_rm64_imm32 => {
            Some(instruction.immediate(1) as i64)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(bytes: &[u8]) -> Result<Flow, FlowError> {
        Flow::build(&Function::decode(bytes, 0x1000).unwrap())
    }

    /// test eax,eax; je +2; push rbx; pop rbx; nop; ret
    const DIAMOND: [u8; 8] = [0x85, 0xc0, 0x74, 0x02, 0x53, 0x5b, 0x90, 0xc3];

    #[test]
    fn what_lies_on_every_way_dominates() {
        let flow = graph(&DIAMOND).unwrap();
        assert_eq!(flow.returns(), [5]);
        let dominators: Vec<_> = (0..5).filter(|&i| flow.dominates(i, &[5])).collect();
        assert_eq!(dominators, [0, 1, 4]);
        assert!((0..6).all(|i| !flow.is_in_loop(i)));
    }

    #[test]
    fn loops_are_seen() {
        // nop; dec eax; jne -4; ret
        let flow = graph(&[0x90, 0xff, 0xc8, 0x75, 0xfc, 0xc3]).unwrap();
        assert!(!flow.is_in_loop(0) && flow.is_in_loop(1) && flow.is_in_loop(2) && !flow.is_in_loop(3));
    }

    #[test]
    fn ways_out_that_are_no_returns_are_refused() {
        assert_eq!(graph(&[0xff, 0xe0]).err(), Some(FlowError::IndirectJump));
        assert_eq!(graph(&[0xeb, 0x10]).err(), Some(FlowError::LeavesByJump));
        // mov eax,imm32; jmp into the immediate
        assert_eq!(graph(&[0xb8, 0x90, 0x90, 0x90, 0x90, 0xeb, 0xfb]).err(), Some(FlowError::LeavesByJump));
        assert_eq!(graph(&[0x90, 0x90]).err(), Some(FlowError::RunsOffEnd));
    }

    #[test]
    fn depth_follows_the_stack_pointer() {
        // push rbp; mov rbp,rsp; sub rsp,0x40; call; add rsp,0x40; pop rbp; ret
        let bytes = [
            0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x40, 0xe8, 0, 0, 0, 0, 0x48, 0x83, 0xc4, 0x40, 0x5d,
            0xc3,
        ];
        let function = Function::decode(&bytes, 0).unwrap();
        let flow = Flow::build(&function).unwrap();
        let depth = StackDepth::compute(&function, &flow).unwrap();
        let depths: Vec<_> = (0..7).map(|i| depth.at(i).unwrap()).collect();
        assert_eq!(depths, [0, 8, 8, 0x48, 0x48, 8, 0]);
    }

    #[test]
    fn ways_of_different_depth_conflict() {
        // test eax,eax; je +1; push rbx; ret
        let function = Function::decode(&[0x85, 0xc0, 0x74, 0x01, 0x53, 0xc3], 0).unwrap();
        let flow = Flow::build(&function).unwrap();
        assert!(matches!(StackDepth::compute(&function, &flow), Err(DepthError::Conflict { to: 3, .. })));
        // mov rsp,rbp; ret
        let function = Function::decode(&[0x48, 0x89, 0xec, 0xc3], 0).unwrap();
        let flow = Flow::build(&function).unwrap();
        assert_eq!(StackDepth::compute(&function, &flow).err(), Some(DepthError::Unknown(0)));
    }
}
