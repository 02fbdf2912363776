//! `told THREADS ROUNDS [LINES [CHILDREN]]`: as often as told, each time that it reads a line, and then once more in so
//! many children, one after the other; see the library.

fn main() {
    let numbers: Vec<u32> = std::env::args().skip(1).map(|word| word.parse().unwrap()).collect();
    let (threads, rounds, lines) = (numbers[0], numbers[1], numbers.get(2).copied().unwrap_or(1));
    for _ in 0..lines {
        std::io::stdin().read_line(&mut String::new()).unwrap();
        told::told(threads, rounds);
    }
    for _ in 0..numbers.get(3).copied().unwrap_or(0) {
        told::tell_in_child(rounds);
    }
}
