//! Executes every AMX instruction that the kernels use and compares it with plain loops.
//!
//! `rustc --edition 2024 -O amx_probe.rs`: shows that an emulator, or a machine, has them. Prints a line for each kind
//! of product and leaves with 1 where one is wrong, with 2 where the machine has no AMX.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::process::ExitCode;

fn main() -> ExitCode {
    let state = unsafe { xgetbv() };
    let features = __cpuid_count(7, 0).edx;
    let has_fp16 = __cpuid_count(7, 1).eax >> 21 & 1 == 1;
    println!(
        "xcr0 {state:#x}, amx-bf16 {}, amx-tile {}, amx-int8 {}, amx-fp16 {has_fp16}",
        features >> 22 & 1,
        features >> 24 & 1,
        features >> 25 & 1
    );
    if state >> 17 & 3 != 3 || features >> 24 & 1 == 0 {
        println!("no AMX here");
        return ExitCode::from(2);
    }
    let permission = request_tiles();
    println!("arch_prctl(ARCH_REQ_XCOMP_PERM, 18) = {permission}");
    if permission != 0 {
        return ExitCode::from(2);
    }
    let mut all_right = true;
    for shape in [Shape { m: 16, n: 16, k: 16 }, Shape { m: 5, n: 3, k: 7 }, Shape { m: 1, n: 1, k: 1 }] {
        all_right &= integers(shape) & bf16(shape);
        if has_fp16 {
            all_right &= fp16(shape);
        }
    }
    println!("{}", if all_right { "all right" } else { "WRONG" });
    ExitCode::from(u8::from(!all_right))
}

/// Rows of the product, its columns, and groups of four bytes along the inner dimension.
#[derive(Clone, Copy, Debug)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
}

/// The 64 bytes of LDTILECFG: tile 0 is the product, 1 and 2 the factors.
#[repr(C, align(64))]
struct Config([u8; 64]);

impl Shape {
    fn config(self) -> Config {
        let mut config = [0; 64];
        config[0] = 1;
        for (tile, (rows, columns)) in
            [(self.m, self.n), (self.m, self.k), (self.k, self.n)].into_iter().enumerate()
        {
            config[16 + 2 * tile] = 4 * columns as u8;
            config[48 + tile] = rows as u8;
        }
        Config(config)
    }
}

macro_rules! product {
    ($instruction:literal, $shape:expr, $c:expr, $a:expr, $b:expr) => {{
        let shape: Shape = $shape;
        let config = shape.config();
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tileloadd tmm0, [{c} + {n} * 1]",
                "tileloadd tmm1, [{a} + {k} * 1]",
                "tileloadd tmm2, [{b} + {n} * 1]",
                concat!($instruction, " tmm0, tmm1, tmm2"),
                "tilestored [{c} + {n} * 1], tmm0",
                "tilerelease",
                config = in(reg) &config,
                c = in(reg) $c.as_mut_ptr(),
                a = in(reg) $a.as_ptr(),
                b = in(reg) $b.as_ptr(),
                n = in(reg) 4 * shape.n,
                k = in(reg) 4 * shape.k,
                out("tmm0") _, out("tmm1") _, out("tmm2") _,
                options(nostack),
            );
        }
    }};
}

fn integers(shape: Shape) -> bool {
    let a = noise(4 * shape.m * shape.k, 1).map(|x| x as u8).collect::<Vec<_>>();
    let b = noise(4 * shape.k * shape.n, 2).map(|x| x as u8).collect::<Vec<_>>();
    let signed = |x: u8| i32::from(x as i8);
    let unsigned = |x: u8| i32::from(x);
    let expected = |left: &dyn Fn(u8) -> i32, right: &dyn Fn(u8) -> i32| {
        let mut c = vec![-7; shape.m * shape.n];
        each(shape, 4, |at, i, j| c[at] += left(a[i]) * right(b[j]));
        c
    };
    let mut right = true;
    let mut compare = |name: &str, c: Vec<i32>, expected: Vec<i32>| right &= say(name, shape, c == expected);
    let mut c = vec![-7; shape.m * shape.n];
    product!("tdpbssd", shape, c, a, b);
    compare("tdpbssd", c, expected(&signed, &signed));
    let mut c = vec![-7; shape.m * shape.n];
    product!("tdpbsud", shape, c, a, b);
    compare("tdpbsud", c, expected(&signed, &unsigned));
    let mut c = vec![-7; shape.m * shape.n];
    product!("tdpbusd", shape, c, a, b);
    compare("tdpbusd", c, expected(&unsigned, &signed));
    let mut c = vec![-7; shape.m * shape.n];
    product!("tdpbuud", shape, c, a, b);
    compare("tdpbuud", c, expected(&unsigned, &unsigned));
    right
}

fn bf16(shape: Shape) -> bool {
    let a = noise(2 * shape.m * shape.k, 3).map(|x| (real(x).to_bits() >> 16) as u16).collect::<Vec<_>>();
    let b = noise(2 * shape.k * shape.n, 4).map(|x| (real(x).to_bits() >> 16) as u16).collect::<Vec<_>>();
    let mut c = vec![0.25_f32; shape.m * shape.n];
    product!("tdpbf16ps", shape, c, a, b);
    let wide = |x: u16| f32::from_bits(u32::from(x) << 16);
    say("tdpbf16ps", shape, is_near(shape, &c, |i, j| wide(a[i]) * wide(b[j])))
}

fn fp16(shape: Shape) -> bool {
    let a = noise(2 * shape.m * shape.k, 5).map(half).collect::<Vec<_>>();
    let b = noise(2 * shape.k * shape.n, 6).map(half).collect::<Vec<_>>();
    let mut c = vec![0.25_f32; shape.m * shape.n];
    product!("tdpfp16ps", shape, c, a, b);
    say("tdpfp16ps", shape, is_near(shape, &c, |i, j| from_half(a[i]) * from_half(b[j])))
}

fn is_near(shape: Shape, c: &[f32], term: impl Fn(usize, usize) -> f32) -> bool {
    let mut expected = vec![0.25_f64; c.len()];
    each(shape, 2, |at, i, j| expected[at] += f64::from(term(i, j)));
    c.iter().zip(&expected).all(|(c, e)| (f64::from(*c) - e).abs() < 1e-5)
}

/// Calls `add(c, a, b)` with the places of every term; the right factor has `group` rows interleaved.
fn each(shape: Shape, group: usize, mut add: impl FnMut(usize, usize, usize)) {
    let Shape { m, n, k } = shape;
    for row in 0..m {
        for column in 0..n {
            for inner in 0..k * group {
                let (outer, lane) = (inner / group, inner % group);
                add(row * n + column, row * k * group + inner, (outer * n + column) * group + lane);
            }
        }
    }
}

fn say(name: &str, shape: Shape, is_right: bool) -> bool {
    println!("{name} {shape:?}: {}", if is_right { "right" } else { "WRONG" });
    is_right
}

/// Words of a linear congruential generator.
fn noise(count: usize, seed: u64) -> impl Iterator<Item = u32> {
    let next = |x: &u64| Some(x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407));
    std::iter::successors(Some(seed), next).skip(1).take(count).map(|x| (x >> 33) as u32)
}

/// Within [-1, 1).
fn real(word: u32) -> f32 {
    (word & 0xffff) as f32 / 32768.0 - 1.0
}

/// A half within [-2, 2), every fourth a subnormal.
fn half(word: u32) -> u16 {
    let exponent = if word & 3 == 0 { 0 } else { (word >> 2 & 15).max(1) as u16 };
    (word >> 8 & 0x83ff) as u16 | exponent << 10
}

fn from_half(half: u16) -> f32 {
    let exponent = i32::from(half >> 10 & 31);
    let fraction = f32::from(half & 0x3ff) / 1024.0;
    let size =
        if exponent == 0 { fraction * 2_f32.powi(-14) } else { (1.0 + fraction) * 2_f32.powi(exponent - 15) };
    if half >> 15 == 1 { -size } else { size }
}

#[target_feature(enable = "xsave")]
unsafe fn xgetbv() -> u64 {
    unsafe { _xgetbv(0) }
}

/// Linux lets a process use the tiles only once it has asked.
fn request_tiles() -> i64 {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result;
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _, out("r11") _,
            options(nostack),
        );
    }
    result
}
