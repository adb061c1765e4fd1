#!/usr/bin/env python3
"""Patches the AMX emulation in the sources of Bochs 3.0: `mend_bochs.py BOCHS-3.0-DIRECTORY`.

As released it multiplies signed bytes as unsigned ones, loses tiles at a switch between threads, lacks XFD (the
disabling of extended features, without which Linux offers no tiles), executes overwritten code in its old form, and
promises counters that it does not have. Facts: Intel SDM volume 1, 13.14 and 18.
Each edit must find its place exactly as often as it says, so that another release is noticed.
"""

import re
import sys
from pathlib import Path

XTILEDATA = "(1 << 18)"
TILES_ARE_DISABLED = f"""
  if (BX_CPU_THIS_PTR msr.ia32_xfd & {XTILEDATA}) {{
    BX_CPU_THIS_PTR msr.ia32_xfd_err |= {XTILEDATA};
    exception(BX_NM_EXCEPTION, 0);
  }}
"""

# File, pattern, what takes its place, how often.
EDITS = [
    # Factors that are signed.
    ("cpu/avx/amx.cc", r"Bit32s\(([xy]byte\[[0-3]\])\)", r"Bit32s(Bit8s(\1))", 16),
    # The layout of the configuration: bytes per row in 16 bits from 16, rows in 8 bits from 48.
    ("cpu/xsave.cc", r"(vmm16u\(8\+n\) *= BX_CPU_THIS_PTR amx->tilecfg\[n\]\.)rows", r"\1bytes_per_row", 1),
    ("cpu/xsave.cc", r"(vmmubyte\(48\+n\) *= BX_CPU_THIS_PTR amx->tilecfg\[n\]\.)bytes_per_row", r"\1rows", 1),
    # All sixteen rows of a tile are saved, and just where one is in use.
    ("cpu/xsave.cc", r"row < BX_TILE_REGISTERS", "row < BX_TILE_MAX_ROWS", 2),
    ("cpu/xsave.cc", r"tile_use_tracker == 0\);.*", "tile_use_tracker != 0);", 1),
    # XFD: its registers, how CPUID tells of it, and the fault at the first use of a tile.
    ("cpu/cpu.h", r"  Bit64u ia32_xss;\n", "  Bit64u ia32_xss;\n  Bit64u ia32_xfd, ia32_xfd_err;\n", 1),
    ("cpu/init.cc", r"(  BX_CPU_THIS_PTR msr\.)ia32_xss = 0;", r"\g<0>\n\1ia32_xfd = 0;\n\1ia32_xfd_err = 0;", 1),
    (
        "cpu/msr.cc",
        r"(  msr_desc\[BX_MSR_)XSS(\] = new MSR_Descriptor\(\"MSR_IA32_)XSS(\", BX_ISA_XSAVES\);\n)",
        r"\g<0>\1IA32_XFD\2XFD\3\1IA32_XFD_ERROR\2XFD_ERROR\3",
        1,
    ),
    (
        "cpu/msr.cc",
        r"    case BX_MSR_XSS:\n      if",
        "    case BX_MSR_IA32_XFD:\n      val64 = BX_CPU_THIS_PTR msr.ia32_xfd;\n      break;\n"
        "    case BX_MSR_IA32_XFD_ERROR:\n      val64 = BX_CPU_THIS_PTR msr.ia32_xfd_err;\n      break;\n"
        r"\g<0>",
        1,
    ),
    (
        "cpu/msr.cc",
        r"    case BX_MSR_XSS:\n      \{",
        "    case BX_MSR_IA32_XFD:\n    case BX_MSR_IA32_XFD_ERROR:\n"
        f"      if (val_64 & ~Bit64u{XTILEDATA})\n        return false;\n"
        "      if (index == BX_MSR_IA32_XFD)\n        BX_CPU_THIS_PTR msr.ia32_xfd = val_64;\n"
        "      else\n        BX_CPU_THIS_PTR msr.ia32_xfd_err = val_64;\n      break;\n"
        r"\g<0>",
        1,
    ),
    (
        "cpu/cpuid.cc",
        r"leaf->eax \|= \(1<<3\);\n",
        r"\g<0>    if (is_cpu_extension_supported(BX_ISA_AMX))\n      leaf->eax |= (1<<4);\n",
        1,
    ),
    (
        "cpu/cpuid.cc",
        r"leaf->ecx = \(cpu->ia32_xss_suppmask & \(1 << subfunction\)\) != 0;\n",
        r"\g<0>      if (subfunction == 18)\n        leaf->ecx |= (1<<2);\n",
        1,
    ),
    # The mark of AMX is bit 7 of what decoded code is filed under, so a line of 128 bytes lies where its neighbour
    # would: the search for code that has been overwritten must not stop before it.
    ("cpu/icache.h", r"    if \(line_mask > mask\) break;\n", "", 1),
    # The performance counters that the model of the processor promises and Bochs lacks: Linux hangs over them.
    ("cpu/cpudb/intel/sapphire_rapids.cc", r"(leaf->eax = )0x08300805;", r"\g<1>0;", 1),
    (
        "cpu/avx/amx.cc",
        r"BX_CPU_C::(TILEZERO_Tnnn\(bxInstruction_c \*i\)|check_tile\(bxInstruction_c \*i, unsigned tile_num\))\n\{",
        lambda found: found[0] + TILES_ARE_DISABLED,
        2,
    ),
]


def main() -> None:
    root = Path(sys.argv[1])
    for name, pattern, replacement, expected in EDITS:
        path = root / name
        text, count = re.subn(pattern, replacement, path.read_text(encoding="latin-1"))
        if count != expected:
            sys.exit(f"{name}: {count} places for {pattern!r}, not {expected}: is this Bochs 3.0?")
        path.write_text(text, encoding="latin-1")


if __name__ == "__main__":
    main()
