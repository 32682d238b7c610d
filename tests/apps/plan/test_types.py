"""What a program needs of a device."""

from jaxtrain.apps.plan.types import CompiledProgram, ProgramMemory


def test_memory_at_once_is_the_compilers_or_the_sum_of_its_parts():
    parts = ProgramMemory(arguments=100, outputs=90, aliased=80, temporaries=7, code=1)
    assert parts.peak == 100 + 90 - 80 + 7 + 1
    assert parts._replace(live=95).peak == 95


def test_a_program_needs_what_lies_beside_it_too():
    memory = ProgramMemory(arguments=100, outputs=0, aliased=0, temporaries=0, code=0)
    program = CompiledProgram("decode", "", memory, runs=1.0, compile_seconds=0.0, beside=50)
    assert program.needed == 150
