"""The file of users: what it says, and that no fault in it shows a key."""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from netd.auth import userfile
from netd.auth.keyring import MAX_KEYS, Keyring
from netd.auth.rights import EVERYTHING, Rights, allows
from netd.auth.source import Source
from netd.auth.userfile import format_moment, parse, parse_moment
from netd.challenge import SharedKey
from netd.errors import ConfigError, Unauthenticated
from netd.scram import SLOTS
from netd.verifier import Verifier

KEY, OTHER = "netd_the key of alice", "netd_the other one of her"
VERIFIER = str(Verifier.of(KEY.encode(), b"salt of 16 bytes"))
FILE = f"""
seed: a seed of twenty characters
roles:
  staff: {{services: [upper, exec], commands: [uptime]}}
  files: {{services: [files], commands: [], roots: [public]}}
users:
  alice:
    roles: [staff, files]
    keys:
    - {{secret: "{KEY}", verifier: "{VERIFIER}", start: "2026-11-20T09:00:00Z"}}
    - {{secret: "{OTHER}", end: "2026-11-21T09:00:00+02:00"}}
  bob: {{uid: 1000, certificate: bob.example.org}}
"""


def keyring(text: str = FILE) -> Keyring:
    return parse(text.encode(), "users.yaml").keyring()


def are(keys: Sequence[SharedKey], *secrets: str) -> bool:
    """Whether these are the keys, as far as they show."""
    signed = [hmac.digest(secret.encode(), b"a message", "sha256") for secret in secrets]
    return [key.sign(b"a message") for key in keys] == signed


def faults(text: str) -> list[str]:
    """What is wrong with a file; no more is said of it than its author may read to others."""
    with pytest.raises(ConfigError) as caught:
        keyring(text)
    assert not re.search("the key of|the other one", str(caught.value))
    return [*caught.value.problems]


def problems_of(data: bytes) -> Sequence[str]:
    """What is wrong with a file, if anything is."""
    try:
        parse(data, "users.yaml").keyring()
    except ConfigError as error:
        return error.problems
    return ()


def test_users_have_keys_and_roles() -> None:
    """As they are written."""
    found = keyring()
    assert sorted(found.users) == ["alice", "bob"]
    assert are(found.shared, KEY, OTHER)
    alice = found.users["alice"]
    assert alice.rights == Rights(
        frozenset({"upper", "exec", "files"}), frozenset({"uptime"}), None
    )
    assert found.users["bob"].rights == EVERYTHING
    assert found.user_of_uid(1000).name == "bob"
    assert found.user_of_certificate("bob.example.org").name == "bob"


def test_who_is_nobody_is_nobody() -> None:
    """Neither by number nor by name."""
    with pytest.raises(Unauthenticated, match="no user has the uid 1001"):
        keyring().user_of_uid(1001)
    with pytest.raises(Unauthenticated, match="no user has a certificate"):
        keyring().user_of_certificate("alice.example.org")


def test_a_role_restricts_what_it_names() -> None:
    """Of several roles each allows something; without any, all is allowed."""
    rights = keyring().users["alice"].rights
    assert allows(rights.services, "files")
    assert not allows(rights.services, "chat")
    assert not allows(rights.commands, "reboot")
    assert allows(rights.roots, "private")
    assert allows(EVERYTHING.services, "chat")


def test_a_key_holds_from_its_start_to_its_end() -> None:
    """To the second, in whatever zone they are written."""
    first, second = keyring().keys
    start = parse_moment("2026-11-20T09:00:00Z").timestamp()
    end = parse_moment("2026-11-21T07:00:00Z").timestamp()
    first.check(start)
    with pytest.raises(Unauthenticated, match="alice begins to be used on 2026-11-20 09:00:00 UTC"):
        first.check(start - 0.001)
    second.check(end - 0.001)
    with pytest.raises(
        Unauthenticated, match="alice has ended on 2026-11-21 07:00:00 UTC"
    ) as caught:
        second.check(end)
    assert caught.value.user == "alice"


def test_a_service_that_no_role_names_is_not_for_this_user() -> None:
    """The error is for the log, and says who and what."""
    alice = keyring().users["alice"]
    alice.check("upper")
    with pytest.raises(Unauthenticated, match="alice may not use chat"):
        alice.check("chat")


def test_verifiers_are_computed_where_there_are_none() -> None:
    """With the salt that the user's other key has, as SCRAM shows one salt for a user."""
    found = keyring()
    first, second = found.verifiers("alice")
    assert str(first) == VERIFIER
    assert second == Verifier.of(OTHER.encode(), first.salt)
    (only,) = keyring(f"users: {{carol: {{keys: [{{secret: {KEY}}}]}}}}").keys
    assert only.verifier == Verifier.of(KEY.encode(), only.verifier.salt)


def test_decoys_fill_the_slots() -> None:
    """So that as much is tried for everybody; and they stay the same with the seed."""
    found, again = keyring(), keyring()
    for name in ("bob", "nobody"):
        assert len(found.verifiers(name)) == SLOTS
        assert found.verifiers(name) == again.verifiers(name)
        assert len({verifier.salt for verifier in found.verifiers(name)}) == 1
    one = keyring(f"users: {{carol: {{keys: [{{secret: {KEY}}}]}}}}")
    real, decoy = one.verifiers("carol")
    assert real.salt == decoy.salt
    assert real.stored != decoy.stored


def test_a_file_of_verifiers_alone_has_no_use_for_classic_clients() -> None:
    """Whoever reads it cannot come in by it."""
    found = keyring(f'users: {{carol: {{keys: [{{verifier: "{VERIFIER}"}}]}}}}')
    assert not found.shared
    assert str(found.verifiers("carol")[0]) == VERIFIER


def test_the_tag_is_made_with_the_key_of_a_sole_user() -> None:
    """Of several users nobody could tell which of their keys to look at it with."""
    sole = keyring(f"users: {{carol: {{keys: [{{secret: {KEY}}}]}}, bob: {{uid: 5}}}}")
    assert are([sole.own_key(0.0)], KEY)
    several = keyring(
        f"users: {{carol: {{keys: [{{secret: {KEY}}}]}}, bob: {{keys: [{{secret: {OTHER}}}]}}}}"
    )
    assert several.own_key(0.0) not in several.shared
    assert not are([several.own_key(0.0)], KEY)


def test_the_tag_is_made_with_a_key_in_use() -> None:
    """Not with one that has ended, or not begun: the client has the other one."""
    ends, starts = (
        f'{{secret: {secret}, {word}: "2026-11-20T09:00:00Z"}}'
        for secret, word in ((KEY, "end"), (OTHER, "start"))
    )
    moment = datetime(2026, 11, 20, 9, tzinfo=UTC).timestamp()
    for keys in (f"{ends}, {starts}", f"{starts}, {ends}"):
        sole = keyring(f"users: {{carol: {{keys: [{keys}]}}}}")
        assert are([sole.own_key(moment - 1)], KEY)
        assert are([sole.own_key(moment)], OTHER)
    ended = keyring(f"users: {{carol: {{keys: [{ends}]}}}}")
    assert not are([ended.own_key(moment)], KEY)


@pytest.mark.parametrize("text", ["", "users:", "users: {}", "{}", "# nobody yet\n"])
def test_a_file_without_users_lets_nobody_in(text: str) -> None:
    """Which is no fault: `netctl users add` begins with one."""
    if text == "users:":
        assert faults(text)
    else:
        assert not keyring(text).shared


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("users: 5", ":1:8: users: "),
        ("users: {alice: {keys: [5]}}", ":1:24: users.alice.keys.0: "),
        ("users: {alice: {keys: [{}]}}", ":1:24: users.alice.keys.0: it has neither"),
        ("users: {alice: {keys: [{secret: short}]}}", ":1:33: .*a key of 5 characters"),
        ('users: {alice: {keys: [{secret: ""}]}}', ":1:33: .*a key of 0 characters"),
        (f"users: {{alice: {{keys: [{{secrets: {KEY}}}]}}}}", ":1:25: this key means nothing"),
        (f"users: {{alice: {{keys: [{KEY}]}}}}", ":1:24: users.alice.keys.0: "),
        (f"users: {{alice: {{keys: {KEY}}}}}", ":1:23: users.alice.keys: "),
        (f"users: {{alice: {KEY}}}", ":1:16: users.alice: "),
        (f"users: {{alice: {{keys: [{{verifier: {KEY}}}]}}}}", ":1:35: .*not a verifier"),
        (f"users: {{alice: {{keys: [{{secret: *{KEY}}}]}}}}", ":1:33: it cannot be read here"),
        (f"users: {{alice: {{keys: [{{secret: !{KEY}}}]}}}}", ":1:33: it cannot be read here"),
        (f"users: {{{KEY}: 1, {KEY}: 2}}", "it cannot be read here"),
        (f"{KEY}", ":1:1: expected keys with values$"),
        (f"users: {{{KEY}: alice}}", r":1:\d+: users.…: expected keys with values$"),
        ("users: {'a b': {}}", "users.a b: "),
        ("users: {alice: {keys: [{secret: 1, start: yesterday}]}}", "start: it is no point"),
        ('users: {alice: {keys: [{start: "2026-11-20T09:00:00"}]}}', "start: it is no point"),
        ("users: {alice: {roles: [boss]}}", ":1:25: .*no such role .there are: none yet"),
        ("users: {alice: {uid: 5}, bob: {uid: 5}}", ":1:37: users.bob.uid: alice has the same"),
        (
            f"users: {{alice: {{keys: [{{secret: {KEY}}}]}}, bob: {{keys: [{{secret: {KEY}}}]}}}}",
            "users.bob.keys.0.secret: alice has the same",
        ),
        (
            f"users: {{alice: {{keys: [{{secret: {KEY}}}, {{secret: {KEY}}}]}}}}",
            "users.alice.keys.0.secret: alice has the same",
        ),
        (
            f"users: {{alice: {{keys: [{{secret: {KEY}, start: '2026-11-20T09:00:00Z', "
            "end: '2026-11-20T09:00:00Z'}]}}",
            "it ends before it begins",
        ),
        (f"users: {{alice: {{keys: [{', '.join(['{}'] * 3)}]}}}}", "at most 2"),
    ],
)  # fmt: skip
def test_a_fault_is_told_by_its_place(text: str, expected: str) -> None:
    """With what is wrong, and nothing that may be a key."""
    assert any(re.search(expected, fault) for fault in faults(text)), faults(text)


def test_the_salts_of_one_user_are_one() -> None:
    """SCRAM shows it before it is known which key the client has."""
    other = Verifier.of(OTHER.encode(), b"another salt, then")
    text = f'users: {{alice: {{keys: [{{verifier: "{VERIFIER}"}}, {{verifier: "{other}"}}]}}}}'
    assert any("different salts" in fault for fault in faults(text))


def test_there_are_not_too_many_keys() -> None:
    """A classic client's answer is tried with each of them."""
    keys = [f'{{verifier: "{VERIFIER}"}}']
    text = "users:\n" + "".join(
        f"  u{n}: {{keys: {keys}}}\n".replace("'", "") for n in range(MAX_KEYS + 1)
    )
    assert any(f"{MAX_KEYS + 1} keys are too many" in fault for fault in faults(text))


def test_as_many_keys_as_there_may_be_can_be_read() -> None:
    """As `netctl users` writes them, which is at length; and it is told when a file is too long."""
    key = f'{{secret: "{KEY}%d", verifier: "{VERIFIER}", start: "2026-11-20T09:00:00Z", %s}}'
    keys = [key % (n, 'end: "2027-11-20T09:00:00Z"') for n in range(MAX_KEYS)]
    users = "".join(f"  u{n}: {{roles: [staff], keys: [{key}]}}\n" for n, key in enumerate(keys))
    text = f"roles: {{staff: {{}}}}\nusers:\n{users}"
    assert len(keyring(text).keys) == MAX_KEYS
    text += "".join(f"  v{n}: {{roles: [staff, staff, staff]}}\n" for n in range(MAX_KEYS))
    text += "".join(f"  w{n}: {{roles: [staff, staff, staff]}}\n" for n in range(MAX_KEYS))
    assert [fault for fault in faults(text) if f"it may hold {MAX_KEYS} keys" in fault]


@given(
    st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode(errors="ignore"))
)
def test_anything_else_is_a_fault_of_the_file(data: bytes) -> None:
    """Never one of ours."""
    assert all(problem.startswith("users.yaml:") for problem in problems_of(data))


@given(st.recursive(st.none() | st.integers() | st.text("ab{}", max_size=4),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["users", "roles", "keys", "secret", "a", "uid"]), inner),
                    max_leaves=8))  # fmt: skip
def test_any_tree_is_understood_or_a_fault(tree: Any) -> None:
    """Keys where they do not belong, and values of another kind."""
    assert all(
        problem.startswith("users.yaml:") for problem in problems_of(yaml.safe_dump(tree).encode())
    )


@given(st.datetimes(timezones=st.timezones()))
def test_moments_are_read_as_they_are_written(moment: Any) -> None:
    """To the second."""
    try:
        whole = parse_moment(moment).replace(microsecond=0)
    except OverflowError:
        return  # before the year 1 in UTC
    if whole.year >= 1000:
        assert parse_moment(format_moment(whole)) == whole


# -- one key for all


def shared(tmp_path: Path, text: str) -> Keyring:
    file = tmp_path / "key"
    file.write_text(text)
    file.chmod(0o600)
    return userfile.load_shared(Source(file))


@pytest.mark.parametrize("text", [KEY, KEY + "\n", KEY + "\r\n", f"\n{KEY}\n\n"])
def test_a_shared_key_is_a_line(tmp_path: Path, text: str) -> None:
    """Without the end of the line, which an editor adds."""
    found = shared(tmp_path, text)
    assert are(found.shared, KEY)
    assert are([found.own_key(0.0)], KEY)
    assert found.classic(0).user.name == "shared"
    assert found.verifiers("shared")[0] == found.keys[0].verifier


def test_a_shared_key_can_be_changed_while_clients_have_either(tmp_path: Path) -> None:
    """The first of two lines is the one that the server shows it has."""
    found = shared(tmp_path, f"{KEY}\n{OTHER}\n")
    assert are(found.shared, KEY, OTHER)
    assert are([found.own_key(0.0)], KEY)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "holds 0 keys"), ("\n\n", "holds 0 keys"), (f"{KEY}\n{OTHER}\nthird", "holds 3 keys"),
        ("short", ":1:1: a key of 5 characters"), (f"\n{KEY}é", ":2:1: it is not a key"),
    ],
)  # fmt: skip
def test_a_file_without_a_fit_key_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    """Empty, short, too many, or not to be typed."""
    with pytest.raises(ConfigError, match=expected) as caught:
        shared(tmp_path, text)
    assert str(tmp_path / "key") in str(caught.value)
    assert "the key of" not in str(caught.value)
