"""Hands a message to the mail server that the operator named, over one connection that is closed afterwards.

The deny-list of addresses does not hold here: nobody but the operator chooses where this leads.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from pathlib import Path
from typing import Literal

import aiosmtplib


class NotSent(Exception):
    """The message was not taken over by anybody. For the log; no client is told more than that."""


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where messages are handed in, and how. ``seconds`` is the longest that each step may take."""

    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    seconds: float = 20.0

    async def send(self, message: EmailMessage, sender: str, recipient: str) -> None:
        """Hand a message in. Raises NotSent."""
        try:
            await aiosmtplib.send(
                message,
                sender=sender,
                recipients=[recipient],
                hostname=self.host,
                port=self.port,
                use_tls=self.security == "tls",
                start_tls=self.security == "starttls",
                tls_context=None if self.security == "none" else self._tls(),
                username=self.user,
                password=self.password,
                timeout=self.seconds,
            )
        except (aiosmtplib.SMTPException, OSError, ValueError) as fault:
            raise NotSent(type(fault).__name__) from None

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return context


def written(sender_name: str, sender: str, recipient: str, subject: str, text: str, now_ms: int) -> EmailMessage:
    """A message in plain text. Raises ValueError for what would be read as further headers."""
    message = EmailMessage()
    message["From"] = Address(sender_name, addr_spec=sender)
    message["To"] = recipient
    message["Subject"] = subject
    message["Date"] = format_datetime(datetime.fromtimestamp(now_ms / 1000, UTC))
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    return message
