"""The web page of the server: chat, comparison and tokens. Its sources lie in `src`, what they build in `static`."""

from dunwu.serve.page.mount import mount_page

__all__ = ["mount_page"]
