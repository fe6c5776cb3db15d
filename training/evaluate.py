def denoising(n, p):
    return []


def service_denoising(n, p):
    return []
