//! An exit site and the returns behind it into the place where the function's result already is.

use std::collections::HashSet;

use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, UsedMemory,
};

use super::decode::Function;
use super::flow::{Flow, StackDepth, is_stack_slot};

/// Where the value that a return will hand over is, before some instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In a 64-bit register.
    Register(Register),
    /// In the 8 bytes at this distance from the stack pointer at function entry; negative in the frame.
    Slot(i64),
}

/// Follows rax at each return back to `site`, through register moves and loads from the frame.
///
/// `None` when it is computed behind the site, in different places on different ways, or anywhere
/// a callee or an aliased store could still change it.
pub fn place_at(function: &Function<'_>, flow: &Flow, depth: &StackDepth, site: usize) -> Option<Place> {
    let trace = Trace { function, flow, depth, frame_is_private: frame_is_private(function) };
    let predecessors = predecessors(flow, site);
    let mut found = None;
    let mut seen = HashSet::new();
    let mut work: Vec<_> =
        flow.returns().iter().map(|&index| (index, Place::Register(Register::RAX))).collect();
    while let Some(wanted) = work.pop() {
        if !seen.insert(wanted) {
            continue;
        }
        let (index, place) = wanted;
        for &before in predecessors.get(index)? {
            let earlier = trace.before(before, place)?;
            if before != site {
                work.push((before, earlier));
            } else if *found.get_or_insert(earlier) != earlier {
                return None;
            }
        }
    }
    found
}

/// The ways into each instruction that start at `site`.
fn predecessors(flow: &Flow, site: usize) -> Vec<Vec<usize>> {
    let after_site = flow.reachable(site, None);
    let mut found = vec![Vec::new(); after_site.len()];
    for from in (0..after_site.len()).filter(|&index| index == site || after_site.get(index) == Some(&true)) {
        for &to in flow.successors(from) {
            if let Some(list) = found.get_mut(to) {
                list.push(from);
            }
        }
    }
    found
}

struct Trace<'a> {
    function: &'a Function<'a>,
    flow: &'a Flow,
    depth: &'a StackDepth,
    frame_is_private: bool,
}

impl Trace<'_> {
    /// Where the value in `place` after instruction `index` is before it.
    fn before(&self, index: usize, place: Place) -> Option<Place> {
        let instruction = self.function.instructions().get(index)?;
        match place {
            Place::Register(register) => self.register_before(index, instruction, register),
            Place::Slot(slot) if is_call(instruction) => self.survives_call(index, slot).then_some(place),
            Place::Slot(slot) => self.slot_before(index, instruction, slot),
        }
    }

    fn register_before(&self, index: usize, instruction: &Instruction, register: Register) -> Option<Place> {
        if is_call(instruction) {
            // Go's calling convention has no callee-saved registers.
            return None;
        }
        if !writes_register(instruction, register) {
            return Some(Place::Register(register));
        }
        let is_load = instruction.mnemonic() == Mnemonic::Mov
            && instruction.op0_kind() == OpKind::Register
            && instruction.op0_register() == register;
        match instruction.op1_kind() {
            OpKind::Register if is_load && instruction.op1_register().is_gpr64() => {
                Some(Place::Register(instruction.op1_register()))
            }
            OpKind::Memory if is_load => self.slot_of(index, instruction).map(Place::Slot),
            _ => None,
        }
    }

    fn slot_before(&self, index: usize, instruction: &Instruction, slot: i64) -> Option<Place> {
        if self.stores_slot(index, instruction, slot) {
            return Some(Place::Register(instruction.op1_register()));
        }
        let mut factory = InstructionInfoFactory::new();
        let untouched =
            factory.info(instruction).used_memory().iter().filter(|m| is_write(m.access())).all(|memory| {
                match memory.base() {
                    Register::RSP => self.misses(index, memory, slot),
                    Register::RBP => false,
                    _ => self.frame_is_private,
                }
            });
        untouched.then_some(Place::Slot(slot))
    }

    /// Whether a write through the stack pointer stays clear of the slot's 8 bytes.
    fn misses(&self, index: usize, memory: &UsedMemory, slot: i64) -> bool {
        let start = self.depth.at(index).and_then(|depth| (memory.displacement() as i64).checked_sub(depth));
        let (Some(start), Some(slot_end)) = (start, slot.checked_add(8)) else {
            return false;
        };
        let end = start.checked_add(memory.memory_size().size() as i64);
        memory.index() == Register::None
            && end.is_some_and(|end| end > start && (end <= slot || start >= slot_end))
    }

    /// Whether a callee leaves the slot alone. It may use the space for its arguments at the bottom
    /// of the frame; a slot that this function has filled on every way to the call and reads again
    /// behind it is no such space, and no pointer into the frame is ever made.
    fn survives_call(&self, call: usize, slot: i64) -> bool {
        let above_stack_pointer =
            self.depth.at(call).and_then(|depth| slot.checked_add(depth)).is_some_and(|at| at >= 0);
        above_stack_pointer
            && self.frame_is_private
            && self.function.instructions().iter().enumerate().any(|(index, instruction)| {
                index != call
                    && self.stores_slot(index, instruction, slot)
                    && self.flow.dominates(index, &[call])
            })
    }

    /// Whether the instruction is `mov [slot], r64`.
    fn stores_slot(&self, index: usize, instruction: &Instruction, slot: i64) -> bool {
        instruction.mnemonic() == Mnemonic::Mov
            && instruction.op0_kind() == OpKind::Memory
            && instruction.op1_kind() == OpKind::Register
            && instruction.op1_register().is_gpr64()
            && self.slot_of(index, instruction) == Some(slot)
    }

    /// The memory operand as a distance from the stack pointer at function entry.
    fn slot_of(&self, index: usize, instruction: &Instruction) -> Option<i64> {
        let displacement = instruction.memory_displacement64() as i64;
        is_stack_slot(instruction).then(|| displacement.checked_sub(self.depth.at(index)?))?
    }
}

/// Whether no pointer into the frame is made but the frame pointer, and that is not used as one.
fn frame_is_private(function: &Function<'_>) -> bool {
    let mut factory = InstructionInfoFactory::new();
    function.instructions().iter().all(|instruction| {
        let reads_frame = factory.info(instruction).used_registers().iter().any(|used| {
            is_frame(used.register()) && !matches!(used.access(), OpAccess::Write | OpAccess::CondWrite)
        });
        let takes_address = instruction.mnemonic() == Mnemonic::Lea
            || (0..instruction.op_count()).any(|i| {
                instruction.op_kind(i) == OpKind::Register && is_frame(instruction.op_register(i)) && i > 0
            })
            || (instruction.mnemonic() == Mnemonic::Push && instruction.op0_register() == Register::RSP);
        let keeps_it = instruction.mnemonic() != Mnemonic::Push
            && instruction.op0_kind() == OpKind::Register
            && is_frame(instruction.op0_register());
        // Go saves the caller's frame pointer in its frame: `mov [rsp+x], rbp`.
        let saves_frame_pointer = instruction.mnemonic() == Mnemonic::Mov
            && instruction.op1_register() == Register::RBP
            && is_stack_slot(instruction);
        let compares = matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test);
        !reads_frame || !takes_address || keeps_it || saves_frame_pointer || compares
    })
}

fn is_frame(register: Register) -> bool {
    matches!(register.full_register(), Register::RSP | Register::RBP)
}

fn is_call(instruction: &Instruction) -> bool {
    matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
}

fn is_write(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// Whether the instruction changes the register or a part of it.
pub fn writes_register(instruction: &Instruction, register: Register) -> bool {
    InstructionInfoFactory::new()
        .info(instruction)
        .used_registers()
        .iter()
        .any(|used| used.register().full_register() == register && is_write(used.access()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(bytes: &[u8], site: usize) -> Option<Place> {
        let function = Function::decode(bytes, 0).unwrap();
        let flow = Flow::build(&function).unwrap();
        let depth = StackDepth::compute(&function, &flow).unwrap();
        place_at(&function, &flow, &depth, site)
    }

    #[test]
    fn a_result_kept_in_the_frame_over_a_call() {
        // sub rsp,0x18; mov [rsp+0x10],rax; call; mov rax,[rsp+0x10]; add rsp,0x18; ret
        let mut bytes = vec![0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0x44, 0x24, 0x10, 0xe8, 0, 0, 0, 0];
        bytes.extend([0x48, 0x8b, 0x44, 0x24, 0x10, 0x48, 0x83, 0xc4, 0x18, 0xc3]);
        assert_eq!(place(&bytes, 2), Some(Place::Slot(-8)));
        // The same with the frame's address in rcx: the callee could write to it.
        let mut shared = bytes.clone();
        shared.splice(4..4, [0x48, 0x8d, 0x4c, 0x24, 0x08]);
        assert_eq!(place(&shared, 3), None);
        // Filled by nobody before the call: it may be the callee's to write.
        let mut unfilled = bytes.clone();
        unfilled.splice(4..9, [0x90; 5]);
        assert_eq!(place(&unfilled, 6), None);
    }

    #[test]
    fn a_result_that_moves_between_registers() {
        // nop; mov rax,rbx; ret
        assert_eq!(place(&[0x90, 0x48, 0x89, 0xd8, 0xc3], 0), Some(Place::Register(Register::RBX)));
        // nop; mov eax,ebx; ret: only half of it
        assert_eq!(place(&[0x90, 0x89, 0xd8, 0xc3], 0), None);
        // nop; xor eax,eax; ret
        assert_eq!(place(&[0x90, 0x31, 0xc0, 0xc3], 0), None);
    }

    #[test]
    fn ways_with_different_places_have_none() {
        // je +3; mov rax,rbx; ret
        assert_eq!(place(&[0x74, 0x03, 0x48, 0x89, 0xd8, 0xc3], 0), None);
        // je +1; nop; ret
        assert_eq!(place(&[0x74, 0x01, 0x90, 0xc3], 0), Some(Place::Register(Register::RAX)));
    }

    #[test]
    fn a_store_over_the_slot_hides_it() {
        // push rax; nop; mov byte [rsp+3],1; mov rax,[rsp]; pop rcx; ret
        let bytes = [0x50, 0x90, 0xc6, 0x44, 0x24, 0x03, 0x01, 0x48, 0x8b, 0x04, 0x24, 0x59, 0xc3];
        assert_eq!(place(&bytes, 1), None);
    }
}
