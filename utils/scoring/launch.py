"""What runs a Python program in its cell: `utils/scoring/cell.py` hands this text to the interpreter.

    python -I -B -c TEXT TOKEN PROOF        numbers of two open files

A program that has run to its end passes on the token. Its tests are assertions in its own process, so two things are
looked at there: what the assertions compare and subtract, and whether builtins are still the interpreter's own. An
object of the program's own classes is refused where it alone would decide: where it meets a value that has no operators
of the program. It may differ from such a value (`!=`) and contain it.
"""

import _ast as ast  # the rest of `ast` takes as long to import as many a program runs
import builtins
import math
import os
import sys
import types

OPERATIONS = {
    "Eq": lambda left, right: left == right,
    "Lt": lambda left, right: left < right,
    "LtE": lambda left, right: left <= right,
    "Gt": lambda left, right: left > right,
    "GtE": lambda left, right: left >= right,
    "In": lambda left, right: left in right,
    "Sub": lambda left, right: left - right,  # before abs(...) < 1e-6
}
METHODS = ("__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__sub__", "__rsub__")
PLAIN = {int, float, complex, bool, str, bytes, type(None)}
FREE = {"print", "input", "open", "_"}  # builtins that a program may replace; no test goes by them


def decides_itself(kind: type) -> bool:
    """Whether a class compares or subtracts by other methods than those of libraries; `unittest.mock` is none."""
    for name in METHODS:
        method = next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)
        if isinstance(method, types.FunctionType):
            file = method.__code__.co_filename
            own = file in ("program.py", "<string>") or file.endswith("mock.py")
        elif isinstance(method, (types.WrapperDescriptorType, types.MethodDescriptorType)):
            own = method.__name__ != name
        else:
            own = method is not None
        if own:
            return True
    return False


def is_own(value: object) -> bool:
    """Whether a value, or anything in the lists, tuples, sets and dictionaries that it is made of, decides itself."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if decides_itself(type(item)):
            return True
        parts = []
        for kind in (list, tuple, set, frozenset, dict):
            if isinstance(item, kind) and id(item) not in seen:
                seen.add(id(item))
                parts += kind.__iter__(item)
                parts += dict.values(item) if kind is dict else ()
        waiting += [part for part in parts if type(part) not in PLAIN]
    return False


def operated(kind: str, left: object, right: object) -> object:
    """The operation, unless a value that decides itself meets one that does not, and so decides alone."""
    if is_own(left) != is_own(right):
        raise AssertionError("a value that decides itself whether it is what is expected")
    return OPERATIONS[kind](left, right)


def checked(node: object) -> object:
    """An operation on two values as a call of `operated`; anything else as it is."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        operation, left, right = node.ops[0], node.left, node.comparators[0]
    elif isinstance(node, ast.BinOp):
        operation, left, right = node.op, node.left, node.right
    else:
        return node
    name = type(operation).__name__
    if name not in OPERATIONS:
        return node
    place = {attribute: getattr(node, attribute) for attribute in node._attributes}
    function, kind = ast.Name("__operated__", ast.Load(), **place), ast.Constant(name, **place)
    return ast.Call(function, [kind, left, right], [], **place)


def walk(tree: ast.AST) -> list[ast.AST]:
    """A node and all below it, what stands within another after it."""
    nodes = [tree]
    for node in nodes:  # grows while it is read
        for name in node._fields:
            value = getattr(node, name, None)
            nodes += [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, ast.AST)]
    return nodes


def with_checks(tree: ast.Module) -> ast.Module:
    """The program with the operations in its assertions checked."""
    for assertion in [node for node in walk(tree) if isinstance(node, ast.Assert)]:
        for node in reversed(walk(assertion)):
            for name in node._fields:
                value = getattr(node, name, None)
                if isinstance(value, list):
                    value[:] = map(checked, value)
                else:
                    setattr(node, name, checked(value))
    return tree


def code_of(source: bytes) -> types.CodeType:
    """The compiled program. Raises: what the interpreter raises for a program that is none."""
    try:
        return compile(with_checks(compile(source, "program.py", "exec", ast.PyCF_ONLY_AST)), "program.py", "exec")
    except RecursionError:  # a tree takes more depth than a program
        return compile(source, "program.py", "exec")


def main(token_end: int, proof_end: int) -> None:
    """Run program.py in a module of its own, and pass on the token if it ran to its end. Does not return."""
    token = os.read(token_end, 64)
    os.close(token_end)
    with open("program.py", "rb") as file:
        code = code_of(file.read())
    sys.argv = ["program.py"]
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    module.__operated__ = operated
    before = {place.__name__: dict(vars(place)) for place in (builtins, math)}
    exec(code, module.__dict__)
    for place, values in before.items():
        for name, value in values.items():
            if name not in FREE and getattr(sys.modules.get(place), name, None) is not value:
                raise AssertionError(f"{place}.{name} is not the interpreter's own any more")
    if sys.gettrace() or sys.getprofile():
        raise AssertionError("the program follows its own steps")
    os.write(proof_end, token)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
