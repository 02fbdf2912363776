//! Program counters into places that outlive their process: a module, and an address in it.

use std::collections::HashMap;
use std::ops::Range;

/// Number of an executable or library.
pub type ModuleId = u32;

/// In place of a module: nothing that was mapped from a file.
pub const NO_MODULE: ModuleId = ModuleId::MAX;

/// A place in code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The module, or [`NO_MODULE`].
    pub module: ModuleId,
    /// The address as the module's file has it; without a module, as the process has it.
    pub address: u64,
}

/// Code of a module, where a process has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The addresses.
    pub range: Range<u64>,
    /// Whose they are.
    pub module: ModuleId,
    /// What is added to the file's addresses.
    pub bias: u64,
}

/// What of a stack's code is where. `mapped` is in order of address; return addresses, which all but the first are,
/// count for the call before them.
pub fn places(mapped: &[Mapped], frames: &[u64]) -> Vec<Place> {
    let place = |(index, &counter): (usize, &u64)| {
        let counter = if index == 0 { counter } else { counter.saturating_sub(1) };
        let next = mapped.partition_point(|one| one.range.start <= counter);
        match next.checked_sub(1).and_then(|at| mapped.get(at)).filter(|one| one.range.contains(&counter)) {
            Some(one) => Place { module: one.module, address: counter.wrapping_sub(one.bias) },
            None => Place { module: NO_MODULE, address: counter },
        }
    };
    frames.iter().enumerate().map(place).collect()
}

/// Number of a stack.
pub type StackId = u32;

/// Different stacks that are kept; the rest count as one without frames.
const MAX_STACKS: usize = 65_536;

/// Stacks, each once.
#[derive(Debug)]
pub struct Stacks {
    numbers: HashMap<Vec<Place>, StackId>,
    stacks: Vec<Vec<Place>>,
    /// Stacks for which there was no room.
    pub overflow: u64,
}

impl Default for Stacks {
    /// With the stack without frames, which is number 0.
    fn default() -> Self {
        Self { numbers: HashMap::from([(Vec::new(), 0)]), stacks: vec![Vec::new()], overflow: 0 }
    }
}

impl Stacks {
    /// The number of a stack.
    pub fn number(&mut self, stack: Vec<Place>) -> StackId {
        if let Some(&number) = self.numbers.get(&stack) {
            return number;
        }
        if self.stacks.len() >= MAX_STACKS {
            self.overflow += 1;
            return 0;
        }
        let number = self.stacks.len() as StackId;
        self.numbers.insert(stack.clone(), number);
        self.stacks.push(stack);
        number
    }

    /// The stack of a number, the innermost place first.
    pub fn get(&self, number: StackId) -> &[Place] {
        self.stacks.get(number as usize).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_belongs_to_the_code_before_its_return_address() {
        let mapped = [
            Mapped { range: 0x1000..0x2000, module: 0, bias: 0x1000 },
            Mapped { range: 0x2000..0x3000, module: 1, bias: 0x1f00 },
        ];
        let place = |module, address| Place { module, address };
        let found = places(&mapped, &[0x2000, 0x2000, 0x3001, 0]);
        let expected = [place(1, 0x100), place(0, 0xfff), place(NO_MODULE, 0x3000), place(NO_MODULE, 0)];
        assert_eq!(found, expected);
    }

    #[test]
    fn equal_stacks_have_one_number() {
        let mut stacks = Stacks::default();
        let stack = vec![Place { module: 1, address: 2 }];
        assert_eq!((stacks.number(Vec::new()), stacks.number(stack.clone())), (0, 1));
        assert_eq!((stacks.number(stack.clone()), stacks.get(1)), (1, &stack[..]));
        assert!(stacks.get(7).is_empty());
    }
}
