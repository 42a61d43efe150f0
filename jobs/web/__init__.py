"""`portraits serve`: pages for people and an API for programs, over what the tables say; needs the extra `serve`.

`app` puts it together. Who asks is known by a token (`access`); whatever is read is read as that token's tenant.
Nothing here draws, and nothing imports torch.
"""
