"""Whose attestation key is believed.

The right PCRs under an unknown key prove nothing: any host can run a software TPM and extend into it what it
likes. A broker has exactly one of: ``EnrolledKeys``, ``EndorsedKeys``, ``ReportedKeys``.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cryptography import x509

from ..errors import FormatError, ImageError, VerifyError
from ..formats.tpm2_credential import make_credential
from ..formats.tpm2_public import Public, endorsement_public, read_sized_public
from ..measure.quote import QuoteError, check_attestation_key
from .endorsement import fingerprint, read_authorities, verify_endorsement
from .owned import open_owned
from .refusal import RefusedError
from .tee import verify_report
from .tee_policy import TeePolicy
from .tee_roots import TeeRoots

# A TPM2B_PUBLIC of an RSA-4096 key has about 600 bytes.
_MAX_PUBLIC_FILE = 4096
_SUFFIX = ".pub"
# As long as the digest of the templates' nameAlg allows. Spec: part 1 section 24.3.
_SECRET_SIZE = 32


@dataclass(frozen=True)
class Activation:
    """A credential that was sent, and what its answer proves.

    Attributes:
        identity: whose endorsement key it was made for.
        key_name: TPM name of the attestation key that has to be in the same TPM.
        secret: what only that TPM can find out.
        credential: what the guest gets.
    """

    identity: str
    key_name: bytes
    secret: bytes = field(repr=False)
    credential: bytes


@dataclass(frozen=True)
class Proof:
    """What a guest gives for its attestation key besides a quote.

    Attributes:
        answer: to the activation.
        report: of its TEE.
        certificates: table that came with the report.
    """

    activation: Activation | None = None
    answer: bytes = field(default=b"", repr=False)
    report: bytes = b""
    certificates: bytes = b""


class KeyTrust(Protocol):
    """A way to know whose an attestation key is."""

    def activate(self, key: Public, certificates: Sequence[bytes], now: datetime) -> Activation:
        """A credential for the key.

        Raises:
            RefusedError: there is none to be had.
        """
        ...

    def admit(self, key: Public, proof: Proof, now: datetime) -> str:
        """The name of whoever has the key, for rules and for the log.

        Raises:
            RefusedError: it is not known to be anybody's; 403.
        """
        ...


@dataclass(frozen=True)
class _Enrolled:
    """What a folder says of keys.

    Attributes:
        names: of machines, by the TPM names of their keys.
        faults: of files that enrol nobody, in words.
    """

    names: Mapping[bytes, str]
    faults: tuple[str, ...] = ()


class EnrolledKeys:
    """Attestation keys that an operator has put here, each under a machine's name.

    The folder as it is now decides, and is read for every key that is to be admitted: times and sizes of
    files do not tell a key from another that took its place a moment later. So what is deleted, renamed or
    replaced counts from the next ``/v1/attest`` on, also in a session that was opened before; a session is
    used up by that request, and there is none to end. Without the folder, or where others may write it,
    nobody is admitted. A file that enrols nobody, and two with the same key, keep out no other machine than
    their own.

    Args:
        keys: public areas by name.
        folder: where they are from; without one, ``keys`` are all there ever will be.

    Raises:
        VerifyError: a key could sign what no TPM made, or two machines have the same.
    """

    def __init__(self, keys: Mapping[str, Public], folder: Path | None = None) -> None:
        self._folder = folder
        self._files: Mapping[str, bytes | str] | None = None
        self._enrolled = _named(keys)
        if self._enrolled.faults:
            raise VerifyError(self._enrolled.faults[0])

    def __len__(self) -> int:
        return len(self._enrolled.names)

    @classmethod
    def read(cls, folder: Path) -> EnrolledKeys:
        """The keys in a folder: ``NAME.pub`` is a TPM2B_PUBLIC, as ``tpm2_createak -u`` writes it.

        Raises:
            ImageError: there is no such folder, others may write it or a key in it, or one cannot be read.
            FormatError: a file is no such public area.
            VerifyError: a key could sign what no TPM made.
        """
        return cls({name: _parsed(folder, name, data) for name, data in _read_files(folder).items()}, folder)

    def activate(self, key: Public, certificates: Sequence[bytes], now: datetime) -> Activation:
        """Nothing: enrolled keys need no credential."""
        raise RefusedError(403, "ak", "keys are enrolled here; go on with /v1/attest")

    def admit(self, key: Public, proof: Proof, now: datetime) -> str:
        """The name that the key is enrolled under.

        Raises:
            RefusedError: it is not enrolled; 403.
            ImageError: the folder does not do, or a file does not in which the key may be; 500.
        """
        if self._folder is not None:
            self._look(self._folder)
        name = self._enrolled.names.get(key.name)
        if name is None and self._enrolled.faults:
            raise ImageError(self._enrolled.faults[0])
        if name is None:
            raise RefusedError(403, "ak", f"not enrolled (its name is {key.name.hex()})")
        return name

    def _look(self, folder: Path) -> None:
        files = _read_files(folder)
        if files == self._files:
            return
        keys, faults = dict[str, Public](), list[str]()
        for name, data in files.items():
            try:
                keys[name] = _parsed(folder, name, data)
            except ImageError as error:
                faults.append(str(error))
        found = _named(keys)
        self._enrolled = _Enrolled(found.names, (*faults, *found.faults))
        self._files = files


def _read_files(folder: Path) -> dict[str, bytes | str]:
    """The bytes of every ``NAME.pub``, or in words why there are none.

    Raises:
        ImageError: there is no such folder, it cannot be read, or others may write it.
    """
    found: dict[str, bytes | str] = {}
    try:
        with open_owned(folder, "for NAME.pub of `tpm2_createak -u`") as opened:
            for file in opened.names(_SUFFIX):
                name = file.removesuffix(_SUFFIX) or file
                try:
                    found[name] = opened.read(file, _MAX_PUBLIC_FILE)
                except FileNotFoundError:
                    # Taken away since its name was read.
                    continue
                except OSError as error:
                    found[name] = f"{error.filename}: {error.strerror}; enrol keys as files"
                except ImageError as error:
                    found[name] = str(error)
    except OSError as error:
        raise ImageError(f"{folder}: {error.strerror}; enrol keys as files") from None
    return found


def _parsed(folder: Path, name: str, data: bytes | str) -> Public:
    if isinstance(data, str):
        raise ImageError(data)
    return read_sized_public(data, str(folder / f"{name}{_SUFFIX}"))


def _named(keys: Mapping[str, Public]) -> _Enrolled:
    """Names of machines by those of their keys; a key that two have is neither's."""
    owners, faults = dict[bytes, list[str]](), list[str]()
    for name, key in keys.items():
        try:
            _check_enrolled(key, name)
        except VerifyError as error:
            faults.append(str(error))
        else:
            owners.setdefault(key.name, []).append(name)
    for first, *others in owners.values():
        if others:
            what = f"the same key as {others[-1]}; enrol each machine's own key"
            faults.append(f"attestation key {first}: {what}")
    return _Enrolled({key: names[0] for key, names in owners.items() if len(names) == 1}, tuple(faults))


class EndorsedKeys:
    """Attestation keys in TPMs whose endorsement certificate a pinned CA has signed.

    It proves a TPM of that maker, and not whose machine it is in: with a CA of discrete TPMs, anybody's. So
    rules should name endorsement certificates, unless the CA signs for one provider's virtual TPMs alone.

    Args:
        authorities: the pinned CAs.
        entropy: gives so many random bytes.
    """

    def __init__(
        self,
        authorities: Sequence[x509.Certificate],
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        if not authorities:
            raise ImageError("endorsement CAs: there are none, so nobody is trusted; pin at least one")
        self._authorities, self._entropy = tuple(authorities), entropy

    @classmethod
    def read(cls, paths: Sequence[Path]) -> EndorsedKeys:
        """Trust in the CAs of PEM files, as they are now and for as long as the broker runs.

        Raises:
            ImageError: a file cannot be read, or others may write it.
            FormatError: it holds no certificates.
        """
        return cls(read_authorities(paths))

    def activate(self, key: Public, certificates: Sequence[bytes], now: datetime) -> Activation:
        """A credential that only the TPM with this endorsement key and this attestation key opens."""
        _check_key(key)
        leaf = verify_endorsement(certificates, self._authorities, now)
        secret = self._entropy(_SECRET_SIZE)
        try:
            endorsement = endorsement_public(leaf.key)
            credential = make_credential(endorsement, key.name, secret)
        except FormatError as error:
            raise RefusedError(403, "ek", error.what) from None
        return Activation(fingerprint(leaf.certificate), key.name, secret, credential.pack())

    def admit(self, key: Public, proof: Proof, now: datetime) -> str:
        """``ek:`` and the SHA-256 of the endorsement certificate, in hex."""
        if proof.activation is None:
            raise RefusedError(
                403, "ak", "nobody vouches for it; call /v1/activate with its endorsement certificate"
            )
        if proof.activation.key_name != key.name:
            what = f"{key.name.hex()} is not the key that was activated, {proof.activation.key_name.hex()}"
            raise RefusedError(403, "ak", what)
        if not hmac.compare_digest(proof.activation.secret, proof.answer):
            raise RefusedError(403, "activation", "not what TPM2_ActivateCredential gives for it")
        return proof.activation.identity


class ReportedKeys:
    """Attestation keys that the report of an AMD SEV-SNP guest vouches for; see ``tee`` for what that proves.

    Args:
        roots: whose signatures are AMD's.
        policy: which guests' reports are accepted.
    """

    def __init__(self, roots: TeeRoots, policy: TeePolicy) -> None:
        self._roots, self._policy = roots, policy

    def activate(self, key: Public, certificates: Sequence[bytes], now: datetime) -> Activation:
        """Nothing: a report needs no credential."""
        raise RefusedError(403, "ak", "keys are trusted by a TEE report here; go on with /v1/attest")

    def admit(self, key: Public, proof: Proof, now: datetime) -> str:
        """``snp:`` and the launch measurement of the guest, in hex."""
        _check_key(key)
        if not proof.report:
            raise RefusedError(403, "report", "no TEE report vouches for the key; send one with /v1/attest")
        found = verify_report(proof.report, proof.certificates, key, self._roots, self._policy, now)
        return f"snp:{found.measurement.hex()}"


def _check_key(key: Public) -> None:
    try:
        check_attestation_key(key)
    except QuoteError as error:
        first = error.refusals[0]
        what = f"{first.field} is {first.found}, expected {first.expected}"
        raise RefusedError(403, "ak_public", what) from None


def _check_enrolled(key: Public, name: str) -> None:
    try:
        check_attestation_key(key)
    except QuoteError as error:
        what = "; ".join(map(str, error.refusals))
        raise VerifyError(f"attestation key {name}: {what}; make one with tpm2_createak") from None
