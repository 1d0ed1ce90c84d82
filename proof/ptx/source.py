"""The text of PTX: its kernels and functions, an instruction at a time."""

import re
import subprocess
from dataclasses import dataclass, field

SIZES = {"pred": 1, "b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "b32": 4, "u32": 4, "s32": 4,
         "f32": 4, "b64": 8, "u64": 8, "s64": 8, "f64": 8}  # fmt: skip
_VARIABLE = re.compile(r"\.(param|shared)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?")
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)")


class Unsupported(Exception):
    """What the compiler emitted and nothing here executes."""


@dataclass(frozen=True)
class Instruction:
    text: str
    opcode: str
    operands: tuple[str, ...]
    predicate: str = ""  # the register that it depends on
    negated: bool = False


@dataclass
class Function:
    name: str
    kernel: bool
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    registers: dict[str, str] = field(default_factory=dict)  # a register, or a prefix of many, and its type
    parameters: dict[str, int] = field(default_factory=dict)  # and their bytes, in order
    shared: dict[str, int] = field(default_factory=dict)  # and where they begin
    shared_bytes: int = 0

    def type_of(self, register: str) -> str:
        return self.registers.get(register) or self.registers[register.rstrip("0123456789")]


class Module:
    """A file of PTX. Its functions are parsed when they are asked for."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"//.*", "", text)
        begins = [m.start() for m in re.finditer(r"^(?:\.\w+\s+)*\.(?:entry|func)\b", text, re.MULTILINE)]
        self._outside = text[: begins[0]]
        self._texts: dict[str, str] = {}
        self._parsed: dict[str, Function] = {}
        self.kernels: dict[str, str] = {}  # name in C++ -> name in PTX
        mangled = []
        for begin, end in zip(begins, [*begins[1:], len(text)], strict=True):
            part = text[begin:end]
            head, brace, body = part.partition("\n{")
            name = re.search(r"\.(?:entry|func)\s+(?:\(.*?\)\s*)?([\w$]+)", head)
            if name is None:
                raise Unsupported(head)
            after = body.rpartition("\n}")[2] if brace else head.partition(";")[2]
            self._outside += after
            if brace:
                self._texts[name[1]] = part.removesuffix(after)
                mangled += [name[1]] * (".entry" in head)
        self.kernels = dict(zip(demangled("\n".join(mangled)).splitlines(), mangled, strict=True))

    def function(self, name: str) -> Function:
        if name not in self._parsed:
            self._parsed[name] = _parsed(name, self._texts[name], self._outside)
        return self._parsed[name]


def demangled(names: str) -> str:
    return subprocess.run(["c++filt"], input=names, capture_output=True, text=True, check=True).stdout


def _parsed(name: str, text: str, outside: str) -> Function:
    head, _, body = text.partition("\n{")
    function = Function(name, kernel=".entry" in head)
    for _, _, kind, parameter, count in _VARIABLE.findall(re.sub(r"\.func\s+\(.*?\)", ".func", head)):
        function.parameters[parameter] = SIZES[kind] * int(count or 1)
    for space, align, kind, variable, count in _VARIABLE.findall(outside + body):
        if space == "shared" and variable in body:
            begin = -(-function.shared_bytes // int(align or 1)) * int(align or 1)
            function.shared[variable] = begin
            function.shared_bytes = begin + SIZES[kind] * int(count or 1)
    # Braces that open a scope are lines of their own, but for those of inline assembly.
    body = re.sub(r"\[[^\]]*\]|\{[^{};]*\}", lambda m: m[0].replace("{", "<").replace("}", ">"), body)
    for statement in re.split(r"[;{}]|(?<=:)\n", body):
        _add(function, " ".join(statement.split()).replace("<", "{").replace(">", "}"))
    return function


def _add(function: Function, statement: str) -> None:
    if not statement or statement.startswith((".pragma", ".param", ".shared")):
        return
    if statement.endswith(":"):
        function.labels[statement[:-1]] = len(function.code)
        return
    if match := _REGISTERS.fullmatch(statement.replace("{", "<").replace("}", ">")):
        for register in match[2].split(","):
            function.registers[register.split("<")[0].strip()] = match[1]
        return
    match = re.fullmatch(r"(?:@(!?)(%\w+) )?([a-z][\w.]*)(?: (.*))?", statement)
    if match is None:
        raise Unsupported(f"{statement!r} in {function.name}")
    operands = re.findall(r"\[[^\]]*\]|\{[^}]*\}|\([^)]*\)|[^,\s]+", match[4] or "")
    function.code.append(Instruction(statement, match[3], tuple(operands), match[2] or "", bool(match[1])))
