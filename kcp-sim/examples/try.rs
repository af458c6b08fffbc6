use kcp_sim::{World, live};
fn main() {
    let mut args = std::env::args().skip(1);
    let world = if args.next().unwrap() == "core" { World::Core } else { World::Stack };
    let from: u64 = args.next().unwrap().parse().unwrap();
    let n: u64 = args.next().unwrap().parse().unwrap();
    let mut bad = 0;
    let start = std::time::Instant::now();
    let mut slow = (0.0, 0);
    let mut ev = 0;
    let mut kinds = std::collections::BTreeMap::<String, (u32, u64)>::new();
    for seed in from..from + n {
        let t = std::time::Instant::now();
        let life = live(world, seed, n == 1);
        ev += life.events;
        let e = t.elapsed().as_secs_f64();
        if e > slow.0 { slow = (e, seed) }
        if let Some(f) = life.failure {
            bad += 1;
            let key: String = f.what.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).take(100).collect();
            let k = kinds.entry(key).or_insert((0, seed));
            k.0 += 1;
            if n == 1 || k.0 <= 2 { println!("seed {seed}: {}", f.what); }
            if n == 1 { for l in f.tail { println!("  {l}") } }
        }
    }
    println!("{bad} of {n} failed, {:?}, {ev} events, slowest {slow:?}", start.elapsed());
    for (k, v) in kinds { println!("{:6} e.g. {:6}  {k}", v.0, v.1); }
}
