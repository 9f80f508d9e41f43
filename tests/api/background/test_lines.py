from api.background.lines import numbered_lines


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    content = b"\xef\xbb\xbf{}\n\n\xef\xbb\xbf{}\n"
    for chunks in ([content], [bytes([byte]) for byte in content]):
        found = list(numbered_lines(chunks, 100))
        assert found == [(1, 3, b"{}"), (3, 7, b"\xef\xbb\xbf{}")]
        assert all(content[start:].startswith(line) for _, start, line in found)
