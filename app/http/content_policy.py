"""Content security policies: what pages of ours may load and run."""

DOCS_ASSETS = "/docs/assets"
WEB = "/web/"
API_CSP = "default-src 'none'; frame-ancestors 'none'; sandbox"
# The documentation page loads its scripts and styles from this server alone.
DOCS_CSP = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)
# The labeling page holds no script or style of its own, and loads none from elsewhere.
NO_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"  # an empty element, for plotly
WEB_CSP = (
    f"default-src 'none'; script-src 'self'; style-src 'self' {NO_STYLE}; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def content_policy(path: str) -> str:
    """The policy of a path."""
    if path == "/" or path.startswith(WEB):
        return WEB_CSP
    return DOCS_CSP if path == "/docs" else API_CSP
